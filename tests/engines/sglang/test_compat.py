"""Each touch of SGLang beyond its plug-in interface does what we take it for."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.runtime_context import get_context

from glmc_engines.sglang import compat


@pytest.fixture
def published() -> Iterator[Any]:
    """A process with server arguments, as a scheduler's is."""
    options = {"chunked_prefill_size": 4096, "tp_size": 1}
    context = get_context()
    if hasattr(context, "override_server_args"):
        with context.override_server_args(**options) as arguments:
            yield arguments
        return
    from sglang.srt import runtime_context
    from sglang.srt.server_args import ServerArgs

    arguments = object.__new__(ServerArgs)  # of older releases: defaults are of the class
    vars(arguments).update(options)
    context.set_server_args(arguments)
    try:
        yield arguments
    finally:
        runtime_context.reset_context()


def test_options_are_read_as_resolved(published: Any) -> None:
    assert compat.option("chunked_prefill_size") == 4096
    assert compat.option("no_such_option_in_any_release") is None
    assert compat.option("no_such_option_in_any_release", 7) == 7


def test_an_option_that_is_set_is_what_schedulers_read(published: Any) -> None:
    from sglang.srt import runtime_context

    compat.set_option(chunked_prefill_size=64, max_running_requests=8)
    assert compat.option("chunked_prefill_size") == 64
    newer = hasattr(runtime_context, "get_schedule")
    read = runtime_context.get_schedule() if newer else get_context().server_args
    assert read.chunked_prefill_size == 64
    assert read.max_running_requests == 8


def test_graphs_are_off_in_the_eyes_of_who_captures(published: Any) -> None:
    from sglang.srt.model_executor.cuda_graph_config import (
        Backend,
        CudaGraphConfig,
        Phase,
        check_cuda_graph_backend,
    )

    compat.set_option(cuda_graph_config=CudaGraphConfig())
    assert not check_cuda_graph_backend(Phase.DECODE, Backend.DISABLED)
    compat.switch_graphs_off()
    for phase in (Phase.DECODE, Phase.PREFILL):
        assert check_cuda_graph_backend(phase, Backend.DISABLED)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, True),
        ({"disable_cuda_graph": True}, False),
        ({"cuda_graph_backend_decode": "disabled"}, True),
        (
            {"cuda_graph_backend_decode": "disabled", "cuda_graph_backend_prefill": "disabled"},
            False,
        ),
        ({"disable_decode_cuda_graph": True, "disable_prefill_cuda_graph": True}, False),
        ({"disable_cuda_graph": True, "cuda_graph_backend_decode": "full"}, True),
    ],
)
def test_graphs_of_the_runtime_are_off_where_the_user_wants_none(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], wanted: bool
) -> None:
    """The argument that says so stays when SGLang's own graphs are switched off."""
    monkeypatch.setattr(compat, "option", lambda name, default=None: options.get(name, default))
    assert compat.wants_graphs() is wanted


def test_the_options_of_graphs_are_those_of_this_release() -> None:
    from sglang.srt.server_args import ServerArgs

    names = set(getattr(ServerArgs, "__struct_fields__", None) or vars(ServerArgs(model_path="m")))
    assert "disable_cuda_graph" in names
    for phase in ("decode", "prefill"):
        assert f"cuda_graph_backend_{phase}" in names or "cuda_graph_config" not in names


def test_backends_are_routed_by_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang.srt.layers.attention import attention_registry as registry

    monkeypatch.setattr(registry, "ATTENTION_BACKENDS", {"one": lambda runner: "engine's"})
    for _ in range(2):  # any number of times
        compat.route_attention_backends(
            lambda runner: runner.model == "ours", lambda runner: "ours"
        )
    made = registry.ATTENTION_BACKENDS["one"]
    assert made(SimpleNamespace(model="ours")) == "ours"
    assert made(SimpleNamespace(model="other")) == "engine's"


def test_known_backends_are_in_the_registry() -> None:
    from sglang.srt.layers.attention import attention_registry as registry

    assert {"torch_native", "flashinfer", "fa3", "triton"} <= set(registry.ATTENTION_BACKENDS)


def test_the_pool_is_read_whole() -> None:
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, ReqToTokenPool

    pool = MHATokenToKVPool(
        size=64,
        page_size=16,
        dtype=torch.float32,
        head_num=2,
        head_dim=8,
        layer_num=3,
        device="cpu",
        enable_memory_saver=False,
    )
    requests = ReqToTokenPool(size=4, max_context_len=32, device="cpu", enable_memory_saver=False)
    runner = SimpleNamespace(token_to_kv_pool=pool, req_to_token_pool=requests)
    pools = compat.Pools.of(runner)
    assert len(pools.layers) == 3
    assert pools.layers[1][0].data_ptr() == pool.k_buffer[1].data_ptr()
    assert pools.layers[2][1].data_ptr() == pool.v_buffer[2].data_ptr()
    assert tuple(pools.layers[0][0].shape) == (80, 2, 8)  # the first page is nobody's
    assert (pools.page_size, pools.layout, pools.kind) == (16, "nhd", "MHATokenToKVPool")
    assert pools.req_to_token is requests.req_to_token


def test_the_logits_processor_asks_the_head(published: Any) -> None:
    from sglang.srt.layers.logits_processor import LogitsProcessor

    processor = LogitsProcessor(SimpleNamespace(vocab_size=16), skip_all_gather=True)
    head = compat.Head(lambda hidden: hidden.repeat(1, 2))
    hidden = torch.randn(3, 8)
    logits = processor._compute_lm_head(hidden, head)
    assert torch.equal(logits, hidden.repeat(1, 2))
    assert not isinstance(head, torch.nn.Module)


def test_models_are_registered_beside_another_package() -> None:
    from sglang.srt.models.registry import ModelRegistry

    compat.register_models("glmc_engines.sglang.models")
    for name in ("Glm4MoeForCausalLM", "Glm4ForCausalLM", "GlmForCausalLM"):
        model, _ = ModelRegistry.resolve_model_cls([name])
        assert model.__module__.startswith("glmc_engines.sglang")

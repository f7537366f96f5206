"""Each private touch of vLLM, by itself: what breaks first with another release."""

from __future__ import annotations

import inspect
import os
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from glmc_engines.core.counters import COUNTERS, Counters, share_counters
from glmc_engines.core.errors import EngineVersionError, UnsupportedError
from glmc_engines.vllm import compat, hooks
from glmc_engines.vllm.models import CLASSES, Glm4MoeForCausalLM, _refuse_lost_weights
from glmc_engines.vllm.plugin import register_models
from glmc_runtime.format.cache import CacheSpec


def test_our_classes_are_registered_once() -> None:
    from vllm import ModelRegistry

    register_models()
    register_models()
    for architecture, model in CLASSES.items():
        found, _ = ModelRegistry.resolve_model_cls([architecture], model_config=_config())
        assert found is model
        assert compat.in_tree_class(architecture).__module__.startswith("vllm.")


def test_the_entry_point_may_be_loaded_again() -> None:
    """What it imports must not take its name."""
    point = EntryPoint("glmc", "glmc_engines.vllm:register", "vllm.general_plugins")
    for _ in range(2):
        point.load()()


def _config() -> Any:
    return SimpleNamespace(
        model_impl="vllm", convert_type="none", runner_type="generate", hf_config=None
    )


def test_an_architecture_that_nobody_replaced_has_no_class() -> None:
    with pytest.raises(EngineVersionError, match="Unknown"):
        compat.in_tree_class("UnknownForCausalLM")


def test_vllm_takes_our_class_for_a_text_model() -> None:
    from vllm.model_executor.models.interfaces import supports_lora, supports_pp
    from vllm.model_executor.models.interfaces_base import is_text_generation_model

    assert is_text_generation_model(Glm4MoeForCausalLM)
    assert supports_pp(Glm4MoeForCausalLM) and supports_lora(Glm4MoeForCausalLM)


def test_options_are_looked_at_before_an_engine_is_built() -> None:
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    seen: list[object] = []
    compat.hook_config("OfATestForCausalLM", lambda config: bool(seen.append(config)))
    try:
        MODELS_CONFIG_MAP["OfATestForCausalLM"].verify_and_update_config("config")
    finally:
        del MODELS_CONFIG_MAP["OfATestForCausalLM"]
    assert seen == ["config"]


def test_without_a_look_at_the_options_no_class_of_ours_is_registered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The scheduler would keep its own limits, and steps would be too large in mid-service."""
    from vllm import ModelRegistry
    from vllm.model_executor.models import config

    registered: list[str] = []
    monkeypatch.setattr(
        ModelRegistry, "register_model", lambda name, model: registered.append(name)
    )
    monkeypatch.setattr(ModelRegistry, "models", {})
    monkeypatch.delattr(config, "MODELS_CONFIG_MAP")
    with pytest.raises(EngineVersionError, match="MODELS_CONFIG_MAP"):
        register_models()
    assert registered == []


def test_each_config_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.config import VllmConfig

    def update(self: Any) -> None:
        if self.model_config is not None:
            self.model_config.config_updated = True

    monkeypatch.setattr(VllmConfig, "try_verify_and_update_config", update)
    seen: list[object] = []
    for _ in range(2):
        hooks.after_config(seen.append)
    config = SimpleNamespace(model_config=SimpleNamespace(config_updated=False))
    for each in (config, config, SimpleNamespace(model_config=None)):
        VllmConfig.try_verify_and_update_config(each)
    assert seen == [config]


class Worker:
    """A worker as vLLM has them."""

    def __init__(self, model: object) -> None:
        self.model_runner = SimpleNamespace(model=model)
        self.done: list[object] = []

    def sleep(self, level: int = 1) -> None:
        self.done.append(level)

    def reset_weights(self) -> None:
        self.done.append("reset")


@pytest.mark.parametrize("by_name", [False, True])
def test_weights_that_can_not_be_loaded_again_are_not_thrown_away(by_name: bool) -> None:
    class Own(Worker):
        pass

    if by_name:
        globals()["Own"] = Own
    kind = f"{__name__}.Own" if by_name else Own
    config = SimpleNamespace(parallel_config=SimpleNamespace(worker_cls=kind))
    for _ in range(2):
        hooks.hook_worker(config, _refuse_lost_weights)
    ours, another = Own(_model()), Own(nn.Identity())
    ours.sleep()
    ours.sleep(level=1)
    for lose in (lambda: ours.sleep(2), lambda: ours.sleep(level=2), ours.reset_weights):
        with pytest.raises(UnsupportedError, match="can't be loaded again"):
            lose()
    another.sleep(2)
    another.reset_weights()
    assert (ours.done, another.done) == ([1, 1], [2, "reset"])
    with pytest.raises(EngineVersionError, match="workers"):
        config.parallel_config.worker_cls = b"pickled"
        hooks.hook_worker(config, _refuse_lost_weights)


def test_workers_of_vllm_have_what_is_asked_first() -> None:
    from vllm.v1.worker.gpu_worker import Worker as OfVllm

    assert "level" in inspect.signature(OfVllm.sleep).parameters
    from vllm.config import ParallelConfig

    assert "worker_cls" in ParallelConfig.__dataclass_fields__


def _model(**attributes: Any) -> Any:
    """A model of ours that was made of nothing."""
    model = object.__new__(Glm4MoeForCausalLM)
    nn.Module.__init__(model)
    usual = {
        "config": SimpleNamespace(vocab_size=7),
        "_dtype": torch.float32,
        "_hidden": 3,
        "_served": None,
        "_measured": False,
        "_captures": True,
        "_backend": None,
        "_layers": [SimpleNamespace(layer_name=str(layer), kv_cache=[]) for layer in range(2)],
    }
    for name, value in {**usual, **attributes}.items():
        object.__setattr__(model, name, value)
    return model


class Plans:
    """What serves, before there is a KV cache and after it."""

    def __init__(self, attached: bool = False) -> None:
        self.attached = attached
        self.captures: bool | None = None

    def attach(self, kv: object, *, capture: bool) -> None:
        self.attached, self.captures = True, capture

    def forward(self, step: object, **_: object) -> object:
        return step

    def logits(self, hidden: torch.Tensor, **_: object) -> str:
        return "logits"


def _in_a_step(monkeypatch: pytest.MonkeyPatch, metadata: object) -> None:
    monkeypatch.setattr(
        "vllm.forward_context.get_forward_context",
        lambda: SimpleNamespace(attn_metadata=metadata),
    )


STEP = SimpleNamespace(step=lambda tokens, positions: "hidden states")


def test_a_run_without_metadata_is_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM measures memory with it, and takes logits of what it returns."""
    model = _model(_served=Plans())
    _in_a_step(monkeypatch, None)
    hidden = model.forward(torch.zeros(4), torch.arange(4))
    assert hidden.shape == (4, 3) and not hidden.any()
    assert model.compute_logits(hidden).shape == (4, 7)


@pytest.mark.parametrize("eager", [False, True])
def test_plans_have_the_cache_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch, eager: bool
) -> None:
    """In a run that warms up, and not while a client waits; without device graphs for
    ``--enforce-eager``."""
    from glmc_engines.vllm.backend import PlanBackend

    plans = Plans()
    config = SimpleNamespace(model_config=SimpleNamespace(enforce_eager=eager))
    captures = compat.wants_graphs(config)
    model = _model(_served=plans, _backend=PlanBackend, _captures=captures)
    _in_a_step(monkeypatch, None)
    for layer in model._layers:
        layer.kv_cache = [torch.zeros(2, 3, 4, 1, 8)]
    assert not model.forward(torch.zeros(4), torch.arange(4)).any() and plans.attached
    assert plans.captures is not eager
    _in_a_step(monkeypatch, {"0": STEP, "1": STEP})
    assert model.forward(torch.zeros(4), torch.arange(4)) == "hidden states"
    assert model.compute_logits(torch.zeros(1, 3)) == "logits"


@pytest.mark.parametrize(
    ("metadata", "served", "words"),
    [
        ({"0": STEP, "1": STEP}, None, "weights it has not loaded"),
        (None, None, "weights it has not loaded"),
        ({"1": STEP}, Plans(attached=True), "no metadata for a layer"),
        ({}, Plans(attached=True), "no metadata for a layer"),
        ({"0": STEP, "1": STEP}, Plans(), "before the KV cache of all layers"),
    ],
)
def test_a_step_that_can_not_be_computed_is_an_error(
    monkeypatch: pytest.MonkeyPatch, metadata: object, served: Any, words: str
) -> None:
    """Zeros would be answered as tokens."""
    model = _model(_served=served)
    _in_a_step(monkeypatch, metadata)
    with pytest.raises(EngineVersionError, match=words):
        model.forward(torch.zeros(4), torch.arange(4))


def test_a_cache_that_one_layer_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(_served=Plans())
    model._layers[0].kv_cache = [torch.zeros(2, 3, 4, 1, 8)]
    _in_a_step(monkeypatch, {"0": STEP, "1": STEP})
    with pytest.raises(EngineVersionError, match="KV cache of all layers") as caught:
        model.forward(torch.zeros(4), torch.arange(4))
    assert caught.value.found == "1"


def test_logits_of_no_step_are_an_error() -> None:
    with pytest.raises(EngineVersionError, match="computed no step"):
        _model(_served=Plans()).compute_logits(torch.zeros(1, 3))
    with pytest.raises(EngineVersionError, match="weights"):
        _model().compute_logits(torch.zeros(1, 3))


def test_bases_of_a_backend() -> None:
    backend, implementation, builder = compat.backend_classes()
    assert all(inspect.isclass(each) for each in (backend, implementation, builder))
    assert "build" in builder.__abstractmethods__
    support = inspect.getattr_static(builder, "_cudagraph_support", None)
    assert support is None or support.name == "NEVER"


def test_the_attention_layer_takes_a_backend() -> None:
    parameters = inspect.signature(compat.attention_class().__init__).parameters
    assert {"num_kv_heads", "cache_config", "prefix", "attn_backend"} <= set(parameters)


@pytest.mark.parametrize("name", ["seq_lens_cpu_upper_bound", "_seq_lens_cpu", "seq_lens_cpu"])
def test_lengths_in_host_memory_by_the_names_of_releases(name: str) -> None:
    lengths = torch.tensor([3])
    assert compat.host_lengths(SimpleNamespace(**{name: lengths})) is lengths
    assert compat.host_lengths(SimpleNamespace(seq_lens_cpu=None)) is None


def test_the_cache_of_a_layer_in_both_forms() -> None:
    cache = torch.zeros(2, 3)
    assert compat.cache_of(SimpleNamespace(kv_cache=cache)) is cache
    assert compat.cache_of(SimpleNamespace(kv_cache=[cache])) is cache
    for nothing in (torch.tensor([]), [], [torch.tensor([])]):
        assert compat.cache_of(SimpleNamespace(kv_cache=nothing)) is None


def test_slots_on_a_host_are_those_of_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.worker.block_table import BlockTable

    def of_a_kernel(self: Any, num_reqs: Any, query_start_loc: Any, positions: Any) -> None: ...

    names = inspect.signature(BlockTable.compute_slot_mapping).parameters
    if list(names)[1:] != list(inspect.signature(of_a_kernel).parameters)[1:]:
        pytest.skip("this release computes slots with numpy")
    # An engine of this process may have replaced it already.
    monkeypatch.setattr(BlockTable, "compute_slot_mapping", of_a_kernel)
    compat.host_slot_mapping()
    table = SimpleNamespace(
        block_size=4,
        block_table=SimpleNamespace(gpu=torch.tensor([[5, 7], [2, 0]])),
        slot_mapping=SimpleNamespace(gpu=torch.zeros(6, dtype=torch.int64)),
    )
    starts, positions = torch.tensor([0, 3, 4]), torch.tensor([2, 3, 4, 1])
    BlockTable.compute_slot_mapping(table, 2, starts, positions)
    assert table.slot_mapping.gpu.tolist() == [22, 23, 28, 9, -1, -1]


def test_counts_are_among_the_metrics_of_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prometheus_client import REGISTRY, CollectorRegistry, generate_latest, multiprocess

    register_models()
    monkeypatch.setenv(COUNTERS, "")  # counts of this test's own
    share_counters()
    Counters.of_rank(5).set("steps", 3)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    for each in (registry, REGISTRY):
        assert b'glmc_steps_total{rank="5"} 3.0' in generate_latest(each)


def test_a_torch_without_calls_for_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 2.6; that no device is visible is taken back all the same."""
    monkeypatch.delattr(torch, "accelerator", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    compat.no_accelerator()
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_seed_is_set() -> None:
    draws = []
    for _ in range(2):
        compat.set_random_seed(3)
        draws.append(float(torch.rand(())))
    assert draws[0] == draws[1]


def test_a_method_of_vllms_is_replaced_once() -> None:
    from vllm.model_executor.custom_op import CustomOp

    class OfATest(CustomOp):  # type: ignore[misc]
        pass

    class Ours(OfATest):
        pass

    for _ in range(2):
        compat.replace_method("OfATest", Ours)
    assert type(CustomOp.__new__(OfATest)) is Ours


def test_graphs_are_switched_off() -> None:
    from vllm.config import CompilationConfig, CUDAGraphMode

    config = SimpleNamespace(compilation_config=CompilationConfig(cudagraph_mode="FULL"))
    compat.switch_graphs_off(config)
    assert config.compilation_config.cudagraph_mode == CUDAGraphMode.NONE


def test_a_backend_has_the_blocks_of_the_artifact() -> None:
    from glmc_engines.vllm.backend import HeadsFirstBackend, PlanBackend, backend_for

    for layout, base in (
        ("blocks_heads_tokens", HeadsFirstBackend),
        ("blocks_tokens_heads", PlanBackend),
    ):
        backend = backend_for(CacheSpec((), 128, 8, layout))
        assert issubclass(backend, base) and backend.full_cls_name()[1] == base.__name__
        assert backend.get_preferred_block_size(16) == 128
    assert PlanBackend.get_preferred_block_size(16) == 16


def test_a_backend_never_computes() -> None:
    from glmc_engines.vllm.backend import PlanAttention

    with pytest.raises(EngineVersionError):
        PlanAttention(1, 2, 3.0).forward(nn.Identity())

"""A model of ours is bound to the pools once, by whichever of SGLang's backends it replaces."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.layers.attention import attention_registry as registry
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, ReqToTokenPool

from glmc_engines.core.errors import EngineVersionError
from glmc_engines.sglang import compat, plugin
from glmc_engines.sglang.attention import ReplayBackend
from glmc_engines.sglang.models import glm
from glmc_engines.sglang.serving import Serving


class Served:
    """Stands for an artifact that is loaded: how often it was bound, and to what."""

    def __init__(self) -> None:
        self.attached: list[Any] = []

    def attach(self, kv: Any, *, capture: bool) -> None:
        self.attached.append(kv)
        self.captures = capture


def serving(served: Served) -> Serving:
    made = Serving.__new__(Serving)
    made._served = served  # type: ignore[assignment]
    made._steps = made._pools = None
    made._metrics = SimpleNamespace(lock=threading.Lock())  # type: ignore[assignment]
    return made


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    loaded = Served()
    monkeypatch.setattr(glm, "Serving", lambda found, weights: serving(loaded))
    options = {"attention_backend": "late", "decode_attention_backend": "later"}
    monkeypatch.setattr(compat, "option", lambda name, default=None: options.get(name, default))
    return loaded


@pytest.fixture
def model() -> Any:
    ours: Any = object.__new__(glm.Glm4MoeForCausalLM)
    torch.nn.Module.__init__(ours)
    ours._found = ours._serving = None
    return ours


def runner(model: Any, size: int = 64) -> Any:
    pool = MHATokenToKVPool(
        size=size,
        page_size=16,
        dtype=torch.float32,
        head_num=2,
        head_dim=8,
        layer_num=2,
        device="cpu",
        enable_memory_saver=False,
    )
    requests = ReqToTokenPool(size=4, max_context_len=32, device="cpu", enable_memory_saver=False)
    return SimpleNamespace(model=model, token_to_kv_pool=pool, req_to_token_pool=requests)


def test_a_backend_that_is_registered_after_the_plug_in(
    monkeypatch: pytest.MonkeyPatch, served: Served, model: Any
) -> None:
    monkeypatch.setattr(registry, "ATTENTION_BACKENDS", {})
    plugin.route_attention_backends()
    registry.register_attention_backend("late")(lambda runner: "another plug-in's")
    model.load_weights([])
    assert isinstance(registry.ATTENTION_BACKENDS["late"](runner(model)), ReplayBackend)
    assert len(served.attached) == 1
    foreign = SimpleNamespace(model=SimpleNamespace())
    assert registry.ATTENTION_BACKENDS["late"](foreign) == "another plug-in's"


def test_no_backend_of_ours_is_an_error_that_names_theirs(served: Served, model: Any) -> None:
    model.load_weights([])
    with pytest.raises(EngineVersionError, match="--attention-backend late, later"):
        model.forward(torch.zeros(1, dtype=torch.int64), torch.zeros(1), SimpleNamespace())


def test_a_model_without_weights_is_an_error_of_ours(served: Served, model: Any) -> None:
    for call in (
        lambda: model.attach(None),
        lambda: model.forward(torch.zeros(1), torch.zeros(1), SimpleNamespace()),
        lambda: model._logits(torch.zeros(1, 8)),
    ):
        with pytest.raises(EngineVersionError, match="no weights"):
            call()


def test_two_backends_over_the_same_pools_bind_them_once(served: Served, model: Any) -> None:
    model.load_weights([])
    each = runner(model)
    for _ in ("decode", "prefill"):
        ReplayBackend(each)
    assert len(served.attached) == 1
    other = runner(model, size=128)
    ReplayBackend(other)
    assert [len(kv.layers[0][0]) for kv in served.attached] == [80, 144]

"""The first wrong kernel call: wrong constants, wrong weights, memory that is written over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmc.check.bisect import replayed
from glmc.check.bisect.bisect import _miscomputed
from glmc.check.bisect.replayed import WrongCall, wrong_call
from glmc.compiled import Compiled, FrontEnd
from glmc.compiler import back_end, front_end
from glmc.config import CompileOptions
from glmc.job import Job, resolve
from glmc.presets.catalog import load_config
from glmc_runtime.kernels import find_binder
from glmc_runtime.replay import bind as bind_module
from tests.check.careless import careless
from tests.sabotage import PLAN_SABOTAGES, with_wrong_constant

pytestmark = pytest.mark.usefixtures("shared_captures")
SOURCE = load_config(Path(__file__).parents[3] / "models" / "tiny-moe")
# Sabotage to the call that must be named, by target.
EXPECTED = {
    "plan_norm_eps": ("cpu.rms_norm", "kunlun_ops.rmsnorm"),
    "plan_decode_scale": ("cpu.decode_attention", "kunlun_ops.speculative_attention"),
    "plan_routed_scale": ("cpu.moe_gate", "kunlun_ops.moe_sigmoid_group_topk_norm"),
    "plan_rope_interleaved": ("cpu.qkv_rope_cache", ""),
    "plan_rope_neox": ("", "kunlun_ops.rotary_embedding"),
    "plan_prefill_scale": ("cpu.prefill_attention", ""),
    "plan_prefill_alpha": ("", "kunlun_ops.prefill_attention"),
}
Edit = Callable[[Compiled], Compiled]


@pytest.fixture(scope="module", autouse=True)
def _one_front_end() -> Any:
    """Capture and passes are the same for all; the sabotages come after them."""
    made: dict[str, FrontEnd] = {}

    def front(job: Job) -> FrontEnd:
        if job.source is not SOURCE:
            return front_end(job)
        return made.setdefault("front", front_end(job)) if not made else made["front"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replayed, "front_end", front)
        yield


def found(target: str, edit: Edit, monkeypatch: pytest.MonkeyPatch) -> WrongCall | None:
    monkeypatch.setattr(replayed, "back_end", lambda front, job: edit(back_end(front, job)))
    return wrong_call(SOURCE, CompileOptions(target=target))


@pytest.mark.parametrize("target", replayed.REPLAYED)
def test_a_right_plan_has_no_wrong_call(target: str) -> None:
    assert wrong_call(SOURCE, CompileOptions(target=target)) is None


@pytest.mark.parametrize(
    ("target", "name"),
    [(target, name) for target in PLAN_SABOTAGES for name in PLAN_SABOTAGES[target]],
)
def test_a_wrong_constant_is_found_in_its_call(
    target: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = found(target, lambda compiled: with_wrong_constant(compiled, name), monkeypatch)
    assert wrong is not None
    assert EXPECTED[name][target == "xpu"] in wrong.functions, wrong
    assert wrong.phase == ("decode" if name == "plan_decode_scale" else "prefill")


def test_a_call_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("no such instruction")

    def broken(function: str) -> Any:
        bind = find_binder(function)
        return (lambda arguments: fails) if function == "cpu.rms_norm" else bind

    monkeypatch.setattr(bind_module, "find_binder", broken)
    wrong = wrong_call(SOURCE, CompileOptions())
    assert wrong is not None and (wrong.phase, wrong.functions) == ("replay", ("cpu.rms_norm",))
    assert str(wrong).startswith("cpu.rms_norm for model.layers.0.input_layernorm")
    assert " fails: " in str(wrong)


def test_a_call_that_writes_over_a_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bind_module, "find_binder", careless)
    wrong = wrong_call(SOURCE, CompileOptions())
    assert wrong is not None and wrong.functions == ("cpu.moe_gate",)
    assert ": writes over model.layers." in str(wrong)


@pytest.mark.long
def test_the_reproduction_has_few_layers_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = found("cpu", lambda each: with_wrong_constant(each, "plan_norm_eps"), monkeypatch)
    assert wrong is not None
    finding = _miscomputed(resolve(SOURCE, CompileOptions()), wrong)
    assert '"num_hidden_layers": 1,' in finding.repro
    with pytest.raises(SystemExit) as ended:
        exec(finding.repro, {})
    assert ended.value.code == 1
    assert "cpu.rms_norm for model.layers.0.input_layernorm" in capsys.readouterr().out
    monkeypatch.setattr(replayed, "back_end", back_end)
    with pytest.raises(SystemExit) as ended:
        exec(finding.repro, {})
    assert ended.value.code == 0

"""Faults of kernels, plans and passes: each is found at its node, and nothing else is blamed.

``python -m tests.check.align.sabotage_table`` prints what is found where.
"""

from __future__ import annotations

from functools import cache

import pytest

from glmc.check.align.result import Alignment, Verdict
from tests.check.align.aligned import DTYPES, PLACES, SHIPPED, Aligner, new_front
from tests.check.align.faults import FAULTS
from tests.sabotage import PLAN_SABOTAGES, sabotaged, with_wrong_constant

pytestmark = pytest.mark.usefixtures("shared_captures")
# The ops whose calls have the constant that a plan's sabotage makes wrong.
_NORMS = ("rms_norm", "add_rms_norm", "qkv_rope_cache")
EDITED = {
    "plan_norm_eps": _NORMS,
    "plan_decode_scale": ("decode_attention",),
    "plan_prefill_scale": ("prefill_attention",),
    "plan_prefill_alpha": ("prefill_attention",),
    "plan_routed_scale": ("moe_gate",),
    "plan_rope_interleaved": ("qkv_rope_cache",),
    "plan_rope_neox": ("qkv_rope_cache",),
}
# Keywords that the wheels of this profile do not have.
NOT_OF_P_B = ("plan_decode_scale", "plan_prefill_alpha")
# The value that a pass's sabotage makes another than the model's, in the layer that has it: the
# first after it that is a value of the model.
PASSES = {
    "wrong_norm_eps": "model.layers.0.input_layernorm#rsqrt",
    "interleaved_rope": "model.layers.0.self_attn#scaled_dot_product_attention",
    "rope_scaling_off": "model.layers.0.self_attn#scaled_dot_product_attention",
    "missing_attention_scale": "model.layers.0.self_attn#scaled_dot_product_attention",
    "wrong_qkv_order": "model.layers.0.self_attn.qkv_proj#linear",
    "routed_scale_missing": "model.layers.2.mlp.gate#gather",
    "routed_scale_twice": "model.layers.2.mlp.gate#gather",
    "swapped_gate_up": "model.layers.0.mlp.gate_proj#linear",
    "shared_expert_dropped": "model.layers.3.input_layernorm#rsqrt",
    "residual_twice": "model.layers.0.post_attention_layernorm#rsqrt",
    "cache_rope_interleaved": "model.layers.0.self_attn#scaled_dot_product_attention",
}
ROUTED_PASSES = ("moe_gate", "moe_ffn", "shared_expert")
# What is not quick is slow but for these.
LONG = ("tiny-moe", "xpu/P-A", "bfloat16")
LONG_PASSES = ("shared_expert_dropped", "routed_scale_missing", "residual_twice")
# What rounding to bfloat16 does is more than this one does.
BELOW_ROUNDING = (("rope_scaling_off", "bfloat16"),)


@cache
def aligner(model: str) -> Aligner:
    return Aligner(SHIPPED / model)


def blamed(alignment: Alignment) -> set[str]:
    """The nodes whose calls are said to be wrong."""
    own = (each for each in alignment.values if each.verdict is Verdict.OWN)
    return {each.node.partition("[")[0] for each in own}


def require_inherited(alignment: Alignment) -> None:
    """What follows the first wrong value is off as well, and is not to blame for it."""
    first = alignment.first
    assert first is not None
    later = [
        each
        for each in alignment.values
        if each.step == first.step and each.order > first.order and each.verdict is Verdict.OK
    ]
    assert any(each.total.largest_absolute > 0 for each in later)
    assert all(each.inherited is not None for each in later)


def cases(quick: tuple[tuple[str, str, str, str], ...], names: dict[str, tuple[str, ...]]) -> list:  # type: ignore[type-arg]
    """All of ``names``, which are by target, in all places and dtypes; those that are not quick are
    slow but for some. Of the dense model one dtype is enough."""
    made = []
    for model, dtypes in (("tiny-moe", DTYPES), ("tiny-dense", ("bfloat16",))):
        for place in PLACES:
            for dtype in dtypes:
                for name in names[place.partition("/")[0]]:
                    case = (model, place, dtype, name)
                    long = case[:3] == LONG
                    mark = () if case in quick else pytest.mark.long if long else pytest.mark.slow
                    made.append(pytest.param(*case, marks=mark, id="-".join(case)))
    return made


@pytest.mark.parametrize(
    ("model", "place", "dtype", "name"),
    cases(
        (
            ("tiny-moe", "cpu", "bfloat16", "sum_in_float16"),
            ("tiny-moe", "cpu", "bfloat16", "lengths_of_the_step_before"),
            ("tiny-moe", "xpu/P-A", "bfloat16", "router_in_bfloat16"),
        ),
        {target: tuple(FAULTS) for target in PLAN_SABOTAGES},
    ),
)
def test_a_wrong_kernel_is_found(
    model: str, place: str, dtype: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = FAULTS[name]
    if fault.routed and model == "tiny-dense":
        pytest.skip("it has no router")
    fault.install(monkeypatch)
    alignment = aligner(model).align(place, dtype)
    assert blamed(alignment) == {fault.node}
    require_inherited(alignment)
    assert fault.phase in ("", alignment.first.phase if alignment.first else "")


@pytest.mark.parametrize(
    ("model", "place", "dtype", "name"),
    cases((("tiny-moe", "xpu/P-A", "bfloat16", "plan_prefill_alpha"),), PLAN_SABOTAGES),
)
def test_a_wrong_constant_of_a_plan_is_found(model: str, place: str, dtype: str, name: str) -> None:
    if place == "xpu/P-B" and name in NOT_OF_P_B:
        pytest.skip("its calls have no such keyword")
    if name == "plan_routed_scale" and model == "tiny-dense":
        pytest.skip("it has no router")
    alignment = aligner(model).align(
        place, dtype, lambda compiled: with_wrong_constant(compiled, name)
    )
    found = [each for each in alignment.values if each.verdict is Verdict.OWN]
    assert found and {each.op for each in found} <= set(EDITED[name])
    require_inherited(alignment)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(
            name,
            dtype,
            marks=()
            if (name, dtype) == ("interleaved_rope", "bfloat16")
            else pytest.mark.long
            if dtype == "bfloat16" and name in LONG_PASSES
            else pytest.mark.slow,
        )
        for dtype in ("float32", "bfloat16")
        for name in PASSES
    ],
)
def test_a_wrong_pass_is_found(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the model as captured: the calls compute what the wrong program says."""
    layer = 2 if sabotaged(name).pass_name in ROUTED_PASSES else 0
    sabotaged(name, (layer,)).install(monkeypatch)
    alignment = aligner("tiny-moe").align("cpu", dtype, front=new_front)
    if (name, dtype) in BELOW_ROUNDING:
        assert blamed(alignment) == set()
        return
    assert blamed(alignment) == {PASSES[name]}
    assert alignment.first is not None
    assert alignment.first.reason.startswith("the reference has another value: ")
    require_inherited(alignment)

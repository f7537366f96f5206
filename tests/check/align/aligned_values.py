"""Alignments in memory, value by value, for what shows them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from glmc.check.align.result import (
    AlignedValue,
    Alignment,
    Difference,
    RouterAgreement,
    Verdict,
)

GATE = "model.layers.1.mlp.gate"


def off_by(rmse: float, **changes: Any) -> Difference:
    known = Difference(
        elements=64,
        largest_absolute=4 * rmse,
        largest_relative=8 * rmse,
        rmse=rmse,
        magnitude=2.0,
        cosine=0.999,
        close=0.75,
        ulps=(40, 20, 4),
        expected_nan=0,
        actual_nan=0,
        expected_inf=0,
        actual_inf=0,
        apart=0,
    )
    return replace(known, **changes)


UNKNOWN = off_by(math.nan, largest_absolute=math.nan, cosine=math.nan, close=math.nan, ulps=())


def a_value(layer: int | None, name: str, rmse: float = 0.01, **changes: Any) -> AlignedValue:
    prefix = f"model.layers.{layer}." if layer is not None else ""
    module = f"{prefix}{name}"
    key = f"{module}.Linear.0.forward_output.0"
    known = AlignedValue(
        step=0,
        order=0,
        phase="prefill",
        name=key,
        other_name=key,
        paired_by="key",
        layer=layer,
        module=module,
        op="linear",
        node=f"layers.{layer}.{name}#linear",
        function="kunlun_ops.matmul",
        source="modeling_glm4_moe.py:123",
        passes=("rms_norm", "qkv_merge"),
        dtype="bfloat16",
        shape=(1, 8, 8),
        total=off_by(rmse),
        own=None,
        inherited=None,
        numerics=None,
        bound=None,
        router=None,
        verdict=Verdict.OK,
        share=rmse * 10,
    )
    return replace(known, **changes)


def a_router(layer: int, margin: float, tie: float, **changes: Any) -> AlignedValue:
    tied = margin <= tie
    router = RouterAgreement(8, 7, (margin,), (tie,))
    reason = "other experts for 1 of 8 tokens"
    verdict = Verdict.OK if tied else Verdict.FAIL
    name = "mlp.gate"
    known = a_value(layer, name, router=router, verdict=verdict, reason=reason, share=margin / tie)
    return replace(known, **changes)


def an_alignment(*values: AlignedValue, **changes: Any) -> Alignment:
    facts = {"tool": "glmc", "model": "tiny-moe", "dtype": "bfloat16", "emulated": False}
    known = Alignment(
        "hf.h5",
        "moe.h5",
        (
            {**facts, "made_by": "Hugging Face transformers 5, cpu", "target": "eager"},
            {**facts, "made_by": "glmc artifact, xpu", "target": "xpu"},
        ),
        tuple(replace(each, order=order) for order, each in enumerate(values)),
        ((), ()),
        (),
        "rounding: as far as rounding goes",
    )
    return replace(known, **changes)


def emulated(alignment: Alignment) -> Alignment:
    expected, actual = alignment.facts
    return replace(alignment, facts=(expected, {**actual, "emulated": True}))

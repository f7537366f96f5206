"""A hand-made alignment of a prefill and a decode step, with every verdict in it."""

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
from glmc.check.align.ulps import BINS
from glmc_runtime.record.tensors import Statistics

ATTENTION = "self_attn.rope_decode_attention"
PREFIX = "model.layers"


def difference(largest: float = 0.0, **fields: Any) -> Difference:
    """Of 64 elements of magnitude 1, whose root mean square of the error is a tenth of the
    largest."""
    ulps = (60, 3, 1) if largest else (64,)
    made = Difference(
        elements=64,
        largest_absolute=largest,
        largest_relative=largest,
        rmse=largest / 10,
        magnitude=1.0,
        cosine=1.0,
        close=1.0,
        ulps=ulps + (0,) * (BINS - len(ulps)),
        expected_nan=0,
        actual_nan=0,
        expected_inf=0,
        actual_inf=0,
        apart=0,
    )
    return replace(made, **fields)


def value(name: str, *, layer: int | None = None, step: int = 0, **fields: Any) -> AlignedValue:
    made = AlignedValue(
        step=step,
        order=0,
        phase="decode" if step else "prefill",
        name=name,
        other_name=name,
        paired_by="key",
        layer=layer,
        module="",
        op="",
        node="",
        function="",
        source="",
        passes=(),
        dtype="bfloat16",
        shape=(4, 16),
        total=difference(),
        own=None,
        inherited=None,
        numerics=None,
        bound=None,
        router=None,
        verdict=Verdict.OK,
    )
    return replace(made, **fields)


def layer_values(layer: int, step: int) -> list[AlignedValue]:
    """Layer 0 is dense, the others have a router; the attention of layer 1 is wrong."""
    start = f"{PREFIX}.{layer}"
    norm = f"{start}.input_layernorm.Glm4MoeRMSNorm.0.forward_output.0"
    attention = value(
        f"{start}.{ATTENTION}.0.forward_output.0",
        layer=layer,
        step=step,
        other_name=f"{start}.self_attn#attention",
        paired_by="node",
        module=f"{start}.self_attn",
        op="rope_decode_attention",
        node=f"{start}.self_attn#attention",
        function="kunlun_ops.rope, kunlun_ops.attention",
        source="modeling_glm4_moe.py:283 forward",
        passes=("rope", "rope_attention"),
        total=difference(0.25),
        own=difference(0.02 if layer != 1 else 0.2),
        inherited=difference(0.05),
        numerics="reordered",
        bound=0.1,
        verdict=Verdict.OWN if layer == 1 else Verdict.OK,
        reason="off by 0.2 where 0.1 is allowed" if layer == 1 else "",
    )
    values = [value(norm, layer=layer, step=step, total=difference(1e-4)), attention]
    if layer:
        router = RouterAgreement(8, 6, (1e-4, 0.25), (1e-3, 1e-3))
        gate = f"{start}.mlp.gate.Glm4MoeTopkRouter.0.forward_output"
        values += [
            value(f"{gate}.0", layer=layer, step=step, node=f"{start}.mlp.gate#topk"),
            value(
                f"{gate}.1", layer=layer, step=step, node=f"{start}.mlp.gate#topk", router=router
            ),
        ]
    mlp = "Glm4MoeMoE" if layer else "Glm4MoeMLP"
    nothing = difference(rmse=math.nan, largest_absolute=math.nan, largest_relative=math.nan)
    last = value(f"{start}.mlp.{mlp}.0.forward_output.0", layer=layer, step=step)
    if layer == 2:
        apart = replace(difference(0.5), actual_nan=3, actual_inf=1, apart=4)
        last = replace(last, total=apart, verdict=Verdict.FAIL, reason="NaN 0 | 3", share=math.inf)
    elif not layer:
        known = Statistics(-1.0, 1.0, 0.125, 0.5, 0, 0)
        last = replace(
            last,
            total=nothing,
            verdict=Verdict.UNKNOWN,
            statistics=(known, replace(known, mean=0.25)),
            also=(f"{start}.mlp.down_proj.Linear.0.forward_output.0",),
        )
    return [*values, last]


def alignment() -> Alignment:
    values = []
    for step in (0, 1):
        values.append(value("model.embed_tokens.Embedding.0.forward_output.0", step=step))
        for layer in (0, 1, 2):
            values += layer_values(layer, step)
        values.append(value("lm_head.Linear.0.forward_output.0", step=step))
    return Alignment(
        expected="stock.h5",
        actual="artifact",
        facts=(
            {"made_by": "Hugging Face transformers, cpu", "model": "glm-4.7"},
            {"made_by": "glmc artifact, xpu (emulated)", "model": "glm-4.7", "emulated": True},
        ),
        values=tuple(replace(each, order=order) for order, each in enumerate(values)),
        unpaired=(("model.rotary_emb.Rotary.0.forward_output.0",), ()),
        remarks=("4 values were not recorded",),
        thresholds="allowed of the magnitude: 4 times rounding",
    )

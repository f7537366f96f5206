"""SwiGLU whose numbers do not depend on their place: ATen's vector and rest differ in exp."""

from __future__ import annotations

from typing import Any

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import flat, require_dtype, require_shape
from glmc_runtime.kernels.ordered.native import gated
from glmc_runtime.kernels.schema import schema, tensor, written
from glmc_runtime.kernels.shared_schemas import SWIGLU


@register("ordered.swiglu", SWIGLU)
def swiglu(arguments: dict[str, Any]) -> Thunk:
    """x [..., 2 * width], the gate first; out [..., width]."""
    x, out = arguments["x"], arguments["out"]
    require_dtype("out", out, x.dtype)
    require_shape("x", x, (*out.shape[:-1], 2 * out.shape[-1]))
    rows, width = flat(x), out.shape[-1]
    return gated(rows[:, :width], rows[:, width:], flat(out))


@register(
    "ordered.silu_mul",
    schema(
        tensor("gate", "..."), tensor("up", "...", like="gate"), written("out", "...", like="gate")
    ),
)
def silu_mul(arguments: dict[str, Any]) -> Thunk:
    """gate, up and out of one shape."""
    gate, up, out = arguments["gate"], arguments["up"], arguments["out"]
    require_dtype("up", up, gate.dtype)
    require_dtype("out", out, gate.dtype)
    require_shape("up", up, tuple(gate.shape))
    require_shape("out", out, tuple(gate.shape))
    return gated(flat(gate), flat(up), flat(out))

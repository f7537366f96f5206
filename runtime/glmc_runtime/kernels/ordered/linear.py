"""The linear layer in a fixed order of sums, whole or as a rank's part of one."""

from __future__ import annotations

from typing import Any

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import flat, optional, require_dtype, require_shape
from glmc_runtime.kernels.ordered.native import SEGMENTS, combine, product
from glmc_runtime.kernels.schema import integer, schema, tensor, written
from glmc_runtime.kernels.shared_schemas import LINEAR

SEGMENTED = (integer("segments", choices=SEGMENTS), integer("length", 1))
"""Into how many sums of ``length`` elements k is cut; they are joined by a fixed tree."""
HOLDS_K = "segments*length == k"


@register("ordered.linear", schema(*LINEAR.arguments, *SEGMENTED, relations=(HOLDS_K,)))
def linear(arguments: dict[str, Any]) -> Thunk:
    """``out = x @ weight.T (+ bias)`` as ``cpu.linear``: x [..., k], weight [n, k], bias [n] or
    None, out [..., n], all of one dtype. A row has the same bits beside any number of others."""
    x, weight, out = arguments["x"], arguments["weight"], arguments["out"]
    require_dtype("out", out, x.dtype)
    return _bound(arguments, x, weight, out)


@register(
    "ordered.partial",
    schema(
        tensor("x", "... k"),
        tensor("weight", "n k", like="x"),
        written("out", "... n", "float32"),
        *SEGMENTED,
        relations=(HOLDS_K,),
    ),
)
def partial(arguments: dict[str, Any]) -> Thunk:
    """As ``ordered.linear`` without bias, out in float32: what other ranks' parts are added to
    before it is rounded."""
    return _bound(arguments, arguments["x"], arguments["weight"], arguments["out"])


@register(
    "ordered.apart",
    schema(
        tensor("x", "rows k"),
        tensor("weight", "n k", like="x"),
        written("out", "rows segments n", "float32"),
        *SEGMENTED,
        relations=(HOLDS_K,),
    ),
)
def apart(arguments: dict[str, Any]) -> Thunk:
    """As ``ordered.partial``, with the segments left as they are."""
    x, weight, out = arguments["x"], arguments["weight"], arguments["out"]
    require_dtype("weight", weight, x.dtype)
    segments, length = int(arguments["segments"]), int(arguments["length"])
    return product(x, weight, out, None, segments, length, apart=True)


@register(
    "ordered.join",
    schema(tensor("x", "rows segments n", "float32"), written("out", "rows n")),
)
def join(arguments: dict[str, Any]) -> Thunk:
    """The tree of neighbours over segments that were left apart, rounded to the dtype of out."""
    return combine(arguments["x"].unsqueeze(1), None, arguments["out"])


def _bound(arguments: dict[str, Any], x: Any, weight: Any, out: Any) -> Thunk:
    require_dtype("weight", weight, x.dtype)
    require_shape("out", out, (*x.shape[:-1], weight.shape[0]))
    segments, length = int(arguments["segments"]), int(arguments["length"])
    return product(flat(x), weight, flat(out), optional(arguments, "bias"), segments, length)

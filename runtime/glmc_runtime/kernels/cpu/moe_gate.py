"""The router: sigmoid scores, biased choice, optional groups, weights; all in float32.

Few tokens are one call of ours, which reads the weight where it lies; of many, or of dtypes that it
has none for, each step is a call of torch's. Both choose the same experts of the same scores, in
the same order.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import torch

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import in_order, require_dtype, require_shape
from glmc_runtime.kernels.cpu.decode_library import serves
from glmc_runtime.kernels.cpu.few_rows import FEW_TOKENS
from glmc_runtime.kernels.cpu.native_call import NativeCall
from glmc_runtime.kernels.router import choose_experts
from glmc_runtime.kernels.schema import schema, scratch, written
from glmc_runtime.kernels.shared_schemas import GATE, GROUPS

Contents = tuple[int, torch.Size, torch.dtype, int]


def contents(weight: torch.Tensor) -> Contents:
    """A key for what is made of a weight while the weight is kept: where it is, as what, and how
    often that memory was written, which torch does not count in inference mode."""
    written = 0 if weight.is_inference() else weight._version
    return weight.data_ptr(), weight.shape, weight.dtype, written


class _Router:
    """A router's weight and its transpose in float32, shared by all buckets of a layer."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight  # kept, so that its address, the key below, stays its own
        self.transposed = weight.float().t()

    def score(self, x: torch.Tensor, logits: torch.Tensor) -> None:
        torch.mm(x, self.transposed, out=logits)


_ROUTERS: WeakValueDictionary[Contents, _Router] = WeakValueDictionary()


def shared_router(weight: torch.Tensor) -> _Router:
    """The float32 form of a router, made once while something is bound to it."""
    key = contents(weight)
    router = _ROUTERS.get(key)
    if router is None:
        router = _ROUTERS[key] = _Router(weight)
    return router


@register(
    "cpu.moe_gate",
    schema(
        *GATE,
        written("x_float", "tokens hidden", "float32"),
        written("choice", "tokens experts", "float32"),
        written("chosen_values", "tokens top_k", "float32"),
        written("sums", "tokens 1", "float32"),
        scratch("best_scores", "tokens groups 2", "float32"),
        scratch("best_ids", "tokens groups 2", "int64"),
        scratch("group_scores", "tokens groups", "float32"),
        scratch("dropped", "tokens groups", "bool"),
        scratch("chosen_scores", "tokens top_groups", "float32"),
        scratch("chosen_groups", "tokens top_groups", "int64"),
        relations=(
            *GROUPS,
            "top_k <= experts",
            "groups == top_groups or best_scores.given",
        ),
        together=(
            (
                "best_scores",
                "best_ids",
                "group_scores",
                "dropped",
                "chosen_scores",
                "chosen_groups",
            ),
        ),
    ),
)
def moe_gate(arguments: dict[str, Any]) -> Thunk:
    """x [tokens, hidden], weight [experts, hidden], bias float32 [experts] -> weights float32 and
    ids int64 [tokens, top_k]; constants as in the semantic op.

    Scratch: x_float float32 like x, logits [tokens, experts], and that of
    :func:`~glmc_runtime.kernels.router.choose_experts`. For torch the weight is cast to float32
    here, once for all bindings.
    """
    x, weight, ids = arguments["x"], arguments["weight"], arguments["ids"]
    x_float, logits = arguments["x_float"], arguments["logits"]
    require_dtype("ids", ids, torch.int64)
    require_shape("x", x, (ids.shape[0], weight.shape[1]))
    require_shape("weight", weight, tuple(weight.shape))
    require_shape("logits", logits, (ids.shape[0], weight.shape[0]))
    for name in ("logits", "choice", "weights"):
        require_dtype(name, arguments[name], torch.float32)
    choose = choose_experts(arguments, logits)
    return _compiled(arguments) or in_order(
        partial(x_float.copy_, x),
        partial(shared_router(weight).score, x_float, logits),
        partial(torch.sigmoid, logits, out=logits),
        *choose,
    )


def _compiled(arguments: dict[str, Any]) -> Thunk | None:
    """The same in one call of ours, or None where torch's kernels serve; operands were checked."""
    x, weight, bias, logits = (arguments[name] for name in ("x", "weight", "bias", "logits"))
    choice, weights, ids = (arguments[name] for name in ("choice", "weights", "ids"))
    plain = (x, weight, bias, logits, choice, weights, ids)
    few = x.shape[0] <= FEW_TOKENS
    if not few or not serves(x, weight) or not all(tensor.is_contiguous() for tensor in plain):
        return None
    groups, normalize = (arguments["groups"], arguments["top_groups"]), bool(arguments["normalize"])
    longs = (*x.shape, weight.shape[0], ids.shape[1], *groups, int(normalize))
    floats = (float(arguments[name]) for name in ("group_fill", "normalize_eps", "scale"))
    return NativeCall("rows_router", plain, longs, tuple(floats))

"""Collectives: what the ranks of one model tell each other in a step.

A rank sees its own operand alone, so their references are over a list of ranks
(:mod:`glmc.ir.ranks`); the op itself can only be traced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from types import MappingProxyType
from typing import Any, NoReturn

import torch
from torch import Tensor

from glmc.errors import InternalError
from glmc.ir.ops.facts import OpFacts, no_flops
from glmc.ir.ops.norms import add_rms_norm
from glmc.ir.ops.registry import Numerics, define


def all_reduce(parts: Sequence[Tensor]) -> list[Tensor]:
    """The sum of all ranks' tensors on each, added pairwise: ranks 2i and 2i + 1, then pairs of
    pairs, as recursive doubling does."""
    level = list(parts)
    while len(level) > 1:
        pairs = [level[at : at + 2] for at in range(0, len(level), 2)]
        level = [reduce(torch.add, pair) for pair in pairs]
    return [level[0].clone() for _ in parts]


def all_gather(parts: Sequence[Tensor], axis: int, size: int) -> list[Tensor]:
    """The ranks' tensors side by side along ``axis``, the first ``size`` entries of them."""
    whole = torch.cat(list(parts), axis).narrow(axis, 0, size)
    return [whole.contiguous() for _ in parts]


def reduce_scatter(parts: Sequence[Tensor], axis: int) -> list[Tensor]:
    """The sum of all ranks' tensors, of which each rank gets an equal piece along ``axis``."""
    return [piece.contiguous() for piece in all_reduce(parts)[0].chunk(len(parts), axis)]


def all_reduce_add_rms_norm(
    parts: Sequence[Tensor], residuals: Sequence[Tensor], weights: Sequence[Tensor], eps: float
) -> list[tuple[Tensor, Tensor]]:
    """``add_rms_norm`` of the sum of all ranks' tensors, on each."""
    sums = zip(all_reduce(parts), residuals, weights, strict=True)
    return [add_rms_norm(total, residual, weight, eps) for total, residual, weight in sums]


def _alone(*_: object) -> NoReturn:
    raise InternalError(
        "a collective can't be computed by one rank alone",
        expected="glmc.ir.ranks.run_ranks",
    )


def _facts() -> OpFacts:
    return OpFacts(tokens=("x",), summed=(), flops=no_flops, accessed={}, shardings=(), strided=())


def _gathered(x: Tensor, axis: int, size: int) -> Tensor:
    shape = list(x.shape)
    shape[axis] = size
    return x.new_empty(shape)


def _scattered(x: Tensor, axis: int, ranks: int) -> Tensor:
    shape = list(x.shape)
    shape[axis] = shape[axis] // ranks
    return x.new_empty(shape)


ALL_REDUCE = define(
    "all_reduce(Tensor x) -> Tensor",
    Numerics.REORDERED,
    _alone,
    lambda x: torch.empty_like(x, memory_format=torch.contiguous_format),
    _facts(),
)
ALL_GATHER = define(
    "all_gather(Tensor x, int axis, int size) -> Tensor",
    Numerics.BITWISE,
    _alone,
    _gathered,
    _facts(),
)
REDUCE_SCATTER = define(
    "reduce_scatter(Tensor x, int axis, int ranks) -> Tensor",
    Numerics.REORDERED,
    _alone,
    _scattered,
    _facts(),
)
ALL_REDUCE_ADD_RMS_NORM = define(
    "all_reduce_add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps) -> "
    "(Tensor, Tensor)",
    Numerics.REORDERED,
    _alone,
    lambda x, residual, weight, eps: (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(x, memory_format=torch.contiguous_format),
    ),
    replace(_facts(), tokens=("x", "residual"), summed=(("x", -1),)),
)
ALL_REDUCES = frozenset({ALL_REDUCE.name, ALL_REDUCE_ADD_RMS_NORM.name})
"""Those whose message is added up by the algorithm of the ranks' table."""
OVER_RANKS: Mapping[str, Callable[..., list[Any]]] = MappingProxyType(
    {
        "all_reduce": all_reduce,
        "all_gather": all_gather,
        "reduce_scatter": lambda parts, axis, ranks: reduce_scatter(parts, axis),
        "all_reduce_add_rms_norm": all_reduce_add_rms_norm,
    }
)
"""The reference of each over the operands of all ranks, a list for each tensor; other arguments are
the op's own."""


def is_collective(name: str) -> bool:
    """Whether an op, by its name in the registry, is computed by all ranks together."""
    return name in OVER_RANKS


def over_ranks(name: str, parts: Sequence[Tensor], arguments: Sequence[Any]) -> list[Any]:
    """The results of all ranks; ``arguments`` are those after the first operand, other operands as
    lists over the ranks."""
    return OVER_RANKS[name](parts, *arguments)

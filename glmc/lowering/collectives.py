"""Rules of what ranks tell each other, the same for every target: the kernels are a group's."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

from glmc.lowering.target import Emitter, Op, Rule, fixed
from glmc.lowering.values import as_rows, flat


def all_reduce(op: Op, emit: Emitter) -> None:
    """In place, in a copy where somebody reads a rank's own summand later."""
    x = emit.mutable(op.tensor("x"))
    emit.call("collective.all_reduce", writes=("x",), x=x)
    emit.bind(0, x)


def all_gather(op: Op, emit: Emitter) -> None:
    """The parts arrive one after the other and are then copied side by side."""
    x, out = op.tensor("x"), emit.result()
    parts = emit.temporary("parts", (fixed(emit.options.ranks), *x.shape), x.dtype)
    emit.call(
        "collective.all_gather",
        writes=("parts", "out"),
        x=x,
        parts=parts,
        out=out,
    )


def reduce_scatter(op: Op, emit: Emitter) -> None:
    """Each rank's piece of the sum, in memory of its own."""
    emit.call(
        "collective.reduce_scatter",
        writes=("out",),
        x=op.tensor("x"),
        out=emit.result(),
    )


def local_embedding(op: Op, emit: Emitter) -> None:
    """Rows of a part of the vocabulary, zeros for the ids of other parts."""
    ids, weight = flat(op.tensor("token_ids")), op.tensor("weight")
    emit.call(
        "aten.local_embedding",
        writes=("rows", "elsewhere", "beyond", "out"),
        ids=ids,
        weight=weight,
        first=op.tensor("first"),
        rows=emit.temporary("rows", ids.shape, torch.int64),
        elsewhere=emit.temporary("elsewhere", ids.shape, torch.bool),
        beyond=emit.temporary("beyond", ids.shape, torch.bool),
        out=as_rows(emit.result()),
    )


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "all_reduce": all_reduce,
        "all_gather": all_gather,
        "reduce_scatter": reduce_scatter,
        "local_embedding": local_embedding,
    }
)

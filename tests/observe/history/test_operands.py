"""Bytes of what a call names: each weight and buffer once, rows of a weight by their number."""

from __future__ import annotations

import torch

from glmc.ir.recipe import Constant, Weight
from glmc.observe.history.operands import Operands
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.plan import (
    Argument,
    Buffer,
    BufferArgument,
    CacheArgument,
    Call,
    ListArgument,
    PhasePlan,
    ValueArgument,
    ViewArgument,
    WeightArgument,
)

TOKENS = Extent.of(tokens=1)
BUFFERS = (
    Buffer(0, "x", "bfloat16", (TOKENS, Extent.of(8)), Extent(), 0, 1),
    Buffer(1, "y", "float32", (Extent.of(4),), Extent(), 0, 1),
)
PLAN = PhasePlan("decode", (), BUFFERS, (), (), 0, Extent())
WEIGHT = Weight("w", (10, 8), torch.bfloat16, Constant((0.0,)))
OPERANDS = Operands(PLAN, {"tokens": 3, "sequences": 3}, {"w": WEIGHT})


def call(**arguments: Argument) -> Call:
    return Call("cpu.linear", arguments, (), False, "x", "linear", None, "")


def test_what_is_named_twice_counts_once() -> None:
    x, shorter = BufferArgument(0), BufferArgument(0, shape=(Extent.of(2), Extent.of(8)))
    made = call(x=x, y=ListArgument((shorter, BufferArgument(1))), out=x, w=WeightArgument("w"))
    assert OPERANDS.buffer_bytes(made) == 3 * 8 * 2 + 4 * 4
    assert OPERANDS.weight_bytes(made) == 10 * 8 * 2


def test_rows_of_a_weight_and_views() -> None:
    view = ViewArgument(WeightArgument("w", (2, 5)), "aten.permute.default", ((1, 0),))
    made = call(w=view, cache=CacheArgument("key", 0), scale=ValueArgument(1.0))
    assert OPERANDS.weight_bytes(made) == 3 * 8 * 2
    assert OPERANDS.buffer_bytes(made) == 0, "the cache grows with the context and is left out"

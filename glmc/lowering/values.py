"""Values in other shapes, and the rope table: what the rules of every target need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from glmc.errors import LoweringError
from glmc.ir.recipe import Constant, RopeTable, Weight
from glmc.lowering.target import Emitter, Op, Value, fixed
from glmc_runtime.format.extent import Extent, Shape


def product(extents: Iterable[Extent]) -> Extent:
    """The product of sizes; raises PlanError where two of them follow the step of an artifact."""
    total = fixed(1)
    for extent in extents:
        total = total.times(extent)
    return total


def view(value: Value, *shape: Extent | int) -> Value:
    """The same storage in another shape."""
    extents: Shape = tuple(fixed(size) if isinstance(size, int) else size for size in shape)
    return replace(value, shape=extents)


def flat(value: Value) -> Value:
    return view(value, product(value.shape))


def as_rows(value: Value) -> Value:
    """[rows, width]: all dimensions but the last as one."""
    return view(value, product(value.shape[:-1]), value.shape[-1])


def rope_table(op: Op, emit: Emitter, dtype: torch.dtype) -> Value:
    """[max_context, rotary_dim]: cos then sin of all positions up to the context limit.

    ``op`` has ``inverse_frequencies`` and ``rope_scaling``. Raises LoweringError for frequencies
    that are not known at compile time.
    """
    frequencies = emit.recipe(op.tensor("inverse_frequencies"))
    if not isinstance(frequencies.recipe, Constant):
        raise LoweringError(
            "the inverse frequencies must be known at compile time",
            place=op.node,
            expected="a constant",
            found=type(frequencies.recipe).__name__,
        )
    values, positions = frequencies.recipe.values, emit.options.max_context
    scaling = op.number("rope_scaling")
    return emit.weight(
        Weight(
            f"{frequencies.name}.cos_sin_{positions}_{scaling:g}",
            (positions, 2 * len(values)),
            dtype,
            RopeTable(values, positions, scaling),
        )
    )

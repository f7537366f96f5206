"""What a program is given in a step: its inputs and caches, as a replay has them.

The sizes are the real ones: rows that only fill up a bucket are in no program.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from glmc.check.verify.execution import BoundInputs
from glmc.check.verify.weights import ModelWeights
from glmc.ir import match as m
from glmc.ir.program import Program
from glmc.lowering.target import LoweringOptions
from glmc_runtime.format.cache import CacheKey
from glmc_runtime.format.step_inputs import step_input
from glmc_runtime.replay.step import Step

Caches = Mapping[CacheKey, Tensor]


def bound_to_step(
    program: Program,
    step: Step,
    options: LoweringOptions,
    weights: ModelWeights,
    caches: Caches,
    blocks: int,
    rank: int = 0,
) -> BoundInputs:
    """The placeholders of a rank in ``step``; a cache that is not among ``caches`` is empty, of
    ``blocks`` blocks."""
    inputs: dict[str, Tensor] = {}
    for node in program.inputs():
        name, dtype = node.meta["input"], node.meta["val"].dtype
        if "cache" in node.meta:
            kept = caches.get(node.meta["cache"].key)
            tail = tuple(map(int, m.shape(node)[1:]))
            inputs[name] = torch.zeros((blocks, *tail), dtype=dtype) if kept is None else kept
        else:
            row = step_input(name).values(step, options.blocks_per_sequence)
            inputs[name] = torch.tensor(row, dtype=dtype)
    return BoundInputs(program, inputs, weights.table(program, rank))

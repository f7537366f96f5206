"""What a recorded call moves and computes, from the history of the compile.

The history has the op of each call's node and what it is computed of, sizes by the names of their
symbols. So an artifact is enough to ask the op's facts, at the sizes of any step.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import glmc.ir.ops  # noqa: F401  the ops that a history names
from glmc.estimates.costs import Cost, moved_cost, op_cost, with_blocks
from glmc.ir.ops.registry import OPS
from glmc.observe.history.record import CallHistory
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.step_inputs import TABLE

_TENSOR = re.compile(r"\[(?P<sizes>[^\]]*)\] (?P<dtype>\w+)")


@dataclass(frozen=True)
class RecordedStep:
    """``tokens`` of ``sequences``, padding left out, with ``context`` tokens in the cache after the
    step and ``keys`` pairs of a query and a key, both over all sequences."""

    tokens: int
    sequences: int
    context: int
    keys: int


class HistoryCosts:
    """Costs of the nodes of calls; those of the same op and operands are counted once a size."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._known: dict[tuple[object, ...], tuple[Cost, Cost]] = {}

    def cost(self, call: CallHistory, step: RecordedStep) -> Cost:
        """The floor of a call's node in a step."""
        key = call.op, call.operands, step.tokens, step.sequences
        if key not in self._known:
            none, one = (_with_table(call, step, table) for table in (0, 1))
            self._known[key] = none, one
        read = step.context / self._block_size / step.sequences
        seen = step.keys / self._block_size / step.tokens
        return with_blocks(*self._known[key], read, seen)


def _with_table(call: CallHistory, step: RecordedStep, table: int) -> Cost:
    """Where the cache has so many blocks of each sequence."""
    sizes = {"tokens": step.tokens, "sequences": step.sequences, "blocks": 1, TABLE: table}
    op = OPS.get(call.op)
    if op is None:
        return moved_cost(tensor for text in call.operands for tensor in _tensors(text, sizes))
    return op_cost(op, [_argument(text, sizes) for text in call.operands], {})


def _argument(text: str, sizes: Mapping[str, int]) -> Any:
    """A tensor, a constant or a size that follows the step."""
    for tensor in _tensors(text, sizes):
        return tensor
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return Extent.parse(text).evaluate(sizes)


def _tensors(text: str, sizes: Mapping[str, int]) -> Iterator[Tensor]:
    """``[tokens, 128] bfloat16, [tokens, 4] int64`` without memory."""
    for match in _TENSOR.finditer(text):
        shape = [Extent.parse(each).evaluate(sizes) for each in match["sizes"].split(", ") if each]
        yield torch.empty(shape, dtype=dtype_of(match["dtype"]), device="meta")

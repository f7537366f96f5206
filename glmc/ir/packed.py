"""The same tokens in three layouts: rows of a batch, packed one after the other, in a paged
cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from glmc.ir import match as m
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.step_inputs import STEP_INPUTS
from glmc_runtime.replay.step import ScheduledTokens, Step


@dataclass(frozen=True)
class Packed:
    """Sequence i computes the positions ``starts[i] : stops[i]`` of row i of ``token_ids``.

    What is before ``starts`` is cached already. ``token_ids`` int64 [batch, tokens] may be
    longer: attention is causal, so what is after changes nothing.
    """

    token_ids: Tensor
    starts: tuple[int, ...]
    stops: tuple[int, ...]
    block_size: int

    @property
    def batch(self) -> int:
        return len(self.stops)

    @property
    def table(self) -> Tensor:
        """int32 [sequences, table]: blocks in no order; the first and the last are nobody's."""
        width = -(-max(self.stops) // self.block_size)
        generator = torch.Generator().manual_seed(7)
        blocks = torch.randperm(self.batch * width, generator=generator) + 1
        return blocks.view(self.batch, width).int()

    def step(self) -> Step:
        """The step as the runtime has it, unpadded."""
        chunks = [
            ScheduledTokens(self.token_ids[row, start:stop].tolist(), start, blocks)
            for row, (start, stop, blocks) in enumerate(
                zip(self.starts, self.stops, self.table.tolist(), strict=True)
            )
        ]
        tokens = sum(len(chunk.tokens) for chunk in chunks)
        return Step(chunks, tokens, len(chunks), self.block_size)

    def inputs(self) -> dict[str, Tensor]:
        """Every step input of a packed program but the caches."""
        return tensors(self.step(), self.table.shape[1])

    def rows(self) -> Tensor:
        """int64 [new tokens]: the row of each in a value [batch * tokens, ...]."""
        tokens = self.token_ids.shape[1]
        bounds = zip(self.starts, self.stops, strict=True)
        return torch.cat(
            [row * tokens + torch.arange(start, stop) for row, (start, stop) in enumerate(bounds)]
        )

    def cache(self, value: Tensor, *, written: bool) -> Tensor:
        """Keys or values [batch, tokens, heads, head_dim] as a cache holds them.

        [blocks, heads, block_size, head_dim]; slots that hold nothing are NaN. The new tokens are
        only there when ``written``.
        """
        heads, size = value.shape[2:]
        blocks = self.table.numel() + 2
        cache = value.new_full((blocks, heads, self.block_size, size), torch.nan)
        for row, stop in enumerate(self.stops if written else self.starts):
            slots = self._slots(torch.full((stop,), row), torch.arange(stop))
            place, offset = slots // self.block_size, slots % self.block_size
            cache[place, :, offset] = value[row, :stop]
        return cache

    def _slots(self, row: Tensor, position: Tensor) -> Tensor:
        block = self.table[row, position // self.block_size].long()
        return block * self.block_size + position % self.block_size


def tensors(step: Step, width: int) -> dict[str, Tensor]:
    """Every step input of ``step``, with tables of ``width`` columns."""
    return {
        name: torch.tensor(row.values(step, width), dtype=dtype_of(row.dtype))
        for name, row in STEP_INPUTS.items()
        if row.fits(step)
    }


def layouts(token_ids: Tensor, block: int) -> list[Packed]:
    """Ragged sequences, all tokens new, and the second halves after the first."""
    batch, tokens = token_ids.shape
    stops = tuple(max(1, tokens - 3 * row) for row in range(batch))
    layouts = [Packed(token_ids, (0,) * batch, stops, block)]
    if tokens > 1:
        layouts.append(Packed(token_ids, tuple(stop // 2 for stop in stops), stops, block))
    return layouts


def last_tokens(packed: Sequence[Packed]) -> list[Packed]:
    """Decode: one new token for each sequence."""
    first = packed[0]
    starts = tuple(stop - 1 for stop in first.stops)
    return [Packed(first.token_ids, starts, first.stops, first.block_size)]


def around_attention(
    old: Node, new: Node, values: Mapping[Node, Any], packed: Packed
) -> tuple[dict[Node, Any], dict[str, Tensor]]:
    """What must go into and come out of ``new``, a ``glmc.prefill_attention``, by the values of
    the stateless ``old``; and the old content of its caches by input name."""
    query, keys, cached = (values[m.operand(old, index)] for index in range(3))
    expected = {
        m.operand(new, 0): query.flatten(0, 1)[packed.rows()],
        m.operand(new, 1): packed.cache(keys, written=True),
        m.operand(new, 2): packed.cache(cached, written=True),
        new: values[old].flatten(0, 1)[packed.rows()],
    }
    written = m.operand(m.operand(new, 1), 0)
    caches = {
        m.operand(written, index).meta["input"]: packed.cache(value, written=False)
        for index, value in ((6, keys), (7, cached))
    }
    return expected, caches

"""The metadata of an outer engine for chunks of sequences."""

from __future__ import annotations

from itertools import accumulate

import torch

from glmc_runtime.engine.outer.step import OuterStep
from glmc_runtime.replay.step import ScheduledTokens

GARBAGE = -(1 << 30)


def outer_step(chunks: list[ScheduledTokens], size: int, width: int) -> OuterStep:
    """Tensors of a step over blocks of ``size``; block tables have ``width`` columns. All are
    longer than needed, with garbage there."""
    counts = [len(chunk.tokens) for chunk in chunks]
    places = [
        range(chunk.start, chunk.start + count) for chunk, count in zip(chunks, counts, strict=True)
    ]
    slots = [
        chunk.blocks[place // size] * size + place % size
        for chunk, new in zip(chunks, places, strict=True)
        for place in new
    ]
    lengths = [new.stop for new in places]

    def longer(values: list[int], dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.tensor([*values, *[GARBAGE] * 3], dtype=dtype)

    rows = [chunk.blocks + [0] * (width - len(chunk.blocks)) for chunk in chunks]
    return OuterStep(
        token_ids=longer([token for chunk in chunks for token in chunk.tokens]),
        positions=longer([place for new in places for place in new], torch.int64),
        slot_mapping=longer(slots, torch.int64),
        block_tables=torch.tensor(rows, dtype=torch.int32),
        context_lengths=longer(lengths),
        cu_seqlens_q=longer(list(accumulate(counts, initial=0))),
        tokens=sum(counts),
        sequences=len(chunks),
        longest_query=max(counts),
    )

"""Rows of a step: real ones of a padded tensor, written ones of a cache of either layout."""

from __future__ import annotations

import pytest
import torch

from glmc_runtime.format.cache import LAYOUTS, CacheSpec, CacheTensor
from glmc_runtime.format.extent import Extent
from glmc_runtime.record.rows import real_rows, written_rows
from glmc_runtime.replay.step import ScheduledTokens, Step

# 3 tokens of a sequence in blocks 4 and 2, from its second on, and one of another in block 1.
CHUNKS = [ScheduledTokens((7, 8, 9), 1, [4, 2]), ScheduledTokens((5,), 0, [1])]
STEP = Step(CHUNKS, 8, 3, block_size=2)
SLOTS = [(4, 1), (2, 0), (2, 1), (1, 0)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 5), (5,)])
def test_rows_of_a_cache_are_packed_as_the_tokens_are(layout: str, shape: tuple[int, ...]) -> None:
    row = CacheTensor("key", shape, "float32", (0,))
    spec = CacheSpec((row,), block_size=2, blocks_per_sequence=4, layout=layout)
    size = (6, *spec.block_shape(row))
    cache = torch.arange(torch.Size(size).numel(), dtype=torch.float32).view(size)
    rows = written_rows(cache, spec, STEP)
    assert rows.shape == (4, *shape)
    by_heads = layout == "blocks_heads_tokens" and len(shape) == 2
    for found, (block, offset) in zip(rows, SLOTS, strict=True):
        expected = cache[block, :, offset] if by_heads else cache[block, offset]
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("tokens", "4"), (4, 4)),
        (("2*tokens", "4"), (8, 4)),
        (("3", "tokens"), (3, 4)),
        (("sequences", "4"), (2, 4)),
        ((), ()),
    ],
)
def test_padding_is_left_out(texts: tuple[str, ...], expected: tuple[int, ...]) -> None:
    shape = tuple(map(Extent.parse, texts))
    whole = torch.rand(tuple(extent.evaluate(STEP.sizes) for extent in shape))
    rows = real_rows(whole, shape, STEP)
    assert rows.shape == expected
    assert torch.equal(rows, whole[tuple(slice(0, size) for size in expected)])


def test_a_prompt_that_goes_on_in_the_next_replay_has_no_row_of_its_own() -> None:
    chunks = [CHUNKS[0], CHUNKS[1]._replace(logits=0)]
    step, whole = Step(chunks, 4, 2, block_size=2), torch.rand(2, 6)
    shape = (Extent.of(sequences=1), Extent(constant=6))
    assert torch.equal(real_rows(whole, shape, step), whole[:1])
    by_token = (Extent.of(tokens=1), Extent(constant=6))
    assert real_rows(torch.rand(4, 6), by_token, step).shape == (4, 6)

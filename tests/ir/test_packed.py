"""Packed tokens and their cache, held against plain loops."""

from __future__ import annotations

import torch

from glmc.ir.packed import Packed

TOKENS = torch.arange(40).view(2, 20)
PACKED = Packed(TOKENS, (3, 0), (20, 11), 8)


def test_the_inputs_of_ragged_sequences() -> None:
    inputs = PACKED.inputs()
    assert inputs["token_ids"].tolist() == [*range(3, 20), *range(20, 31)]
    assert inputs["positions"].tolist() == [*range(3, 20), *range(11)]
    assert inputs["cu_seqlens_q"].tolist() == [0, 17, 28]
    assert inputs["cu_seqlens_k"].tolist() == [0, 20, 31]
    assert inputs["context_lengths"].tolist() == [20, 11]
    assert inputs["last_rows"].tolist() == [16, 27]
    table = inputs["block_tables"]
    assert table.shape == (2, 3) and sorted(table.flatten().tolist()) == [1, 2, 3, 4, 5, 6]
    slots = [int(table[0, at // 8]) * 8 + at % 8 for at in range(3, 20)]
    assert inputs["slot_mapping"].tolist()[:17] == slots


def test_the_cache_holds_what_was_computed_and_nothing_else() -> None:
    value = torch.randn(2, 20, 3, 4)
    table = PACKED.table
    for written, lengths in ((False, (3, 0)), (True, (20, 11))):
        cache = PACKED.cache(value, written=written)
        assert cache.shape == (8, 3, 8, 4)
        assert int((~cache.isnan()).sum()) == sum(lengths) * 12
        for row, length in enumerate(lengths):
            for at in range(length):
                assert torch.equal(cache[table[row, at // 8], :, at % 8], value[row, at])

"""Block allocator: no overlap, all returned, runs preferred, misuse refused."""

from __future__ import annotations

import random

import pytest
import torch

from glmc_runtime.errors import CapacityError, PlanError
from glmc_runtime.format.manifest import CacheSpec
from glmc_runtime.replay.cache import BlockAllocator, KVCache, block_bytes, choose_block_count

SPEC = CacheSpec(2, 3, 8, "bfloat16", 16, 4, "blocks_heads_tokens")
CPU = torch.device("cpu")


@pytest.mark.parametrize("seed", range(5))
def test_random_use_never_overlaps_and_returns_everything(seed: int) -> None:
    chance = random.Random(seed)
    allocator = BlockAllocator(40)
    owned: list[list[int]] = []
    for _ in range(2000):
        if owned and chance.random() < 0.5:
            allocator.free(owned.pop(chance.randrange(len(owned))))
            continue
        number = chance.randrange(0, 12)
        after = owned[-1][-1] if owned and owned[-1] and chance.random() < 0.5 else None
        if number > allocator.available:
            before = allocator.available
            with pytest.raises(CapacityError):
                allocator.allocate(number, after)
            assert allocator.available == before
            continue
        owned.append(allocator.allocate(number, after))
        taken = [block for blocks in owned for block in blocks]
        assert len(taken) == len(set(taken)) == allocator.usable - allocator.available
        assert all(0 < block < 40 for block in taken)
    for blocks in owned:
        allocator.free(blocks)
    assert allocator.available == allocator.usable == 39
    assert sorted(allocator.allocate(39)) == list(range(1, 40))


def test_contiguous_runs_are_preferred() -> None:
    allocator = BlockAllocator(12)
    first, second, third = (allocator.allocate(2) for _ in range(3))
    allocator.free(first)
    assert allocator.allocate(3) == [7, 8, 9]  # not the hole of two
    assert allocator.allocate(2, after=9) == [10, 11]  # after its own block
    allocator.free(third)
    assert allocator.allocate(4) == [1, 2, 5, 6]  # scattered when there is no run
    assert second == [3, 4]


def test_double_free_and_foreign_blocks_are_refused_as_a_whole() -> None:
    allocator = BlockAllocator(8)
    blocks = allocator.allocate(3)
    allocator.free(blocks[:1])
    for wrong in (blocks, [0], [8], [-1], [blocks[1], blocks[1]]):
        with pytest.raises(PlanError, match="nobody owns"):
            allocator.free(wrong)
    assert allocator.available == 5


def test_a_shared_block_is_free_when_its_last_owner_gives_it_back() -> None:
    allocator = BlockAllocator(8)
    blocks = allocator.allocate(3)
    for _ in range(300):  # more owners than a byte counts
        allocator.share(blocks[:2])
    assert [allocator.owners(block) for block in blocks] == [301, 301, 1]
    for _ in range(300):
        allocator.free(blocks[:2])
    assert allocator.available == 4
    allocator.free(blocks)
    assert allocator.available == 7
    for wrong in (blocks[:1], [0], [8]):
        with pytest.raises(PlanError, match="nobody owns"):
            allocator.share(wrong)


def test_a_block_is_copied_in_all_layers() -> None:
    cache = KVCache(SPEC, 4, CPU)
    for number, tensor in enumerate((*cache.keys, *cache.values)):
        tensor[2] = number + 1
    cache.copy_block(2, 3)
    for number, tensor in enumerate((*cache.keys, *cache.values)):
        assert (tensor[3] == number + 1).all() and not tensor[1].any()


def test_capacity_error_names_needed_and_free_blocks() -> None:
    allocator = BlockAllocator(4)
    with pytest.raises(CapacityError) as caught:
        allocator.allocate(9)
    assert "9 blocks" in str(caught.value)
    assert "3 free of 3" in str(caught.value)
    with pytest.raises(CapacityError, match="too small"):
        BlockAllocator(1)


def test_layouts_and_sizes() -> None:
    cache = KVCache(SPEC, 5, CPU)
    assert cache.tensor("key", 1).shape == (5, 3, 16, 8)
    assert cache.tensor("value", 0).dtype == torch.bfloat16
    assert block_bytes(SPEC) == 2 * 2 * 3 * 16 * 8 * 2
    for name, layer in (("query", 0), ("key", 2), ("key", -1)):
        with pytest.raises(PlanError, match="no cache"):
            cache.tensor(name, layer)


@pytest.mark.parametrize("blocks", [1 << 40, 10**30])
def test_a_cache_larger_than_all_memory_is_refused_before_anything_is_taken(blocks: int) -> None:
    with pytest.raises(CapacityError, match="larger than all memory") as caught:
        KVCache(SPEC, blocks, CPU)
    assert f"{blocks * block_bytes(SPEC)} bytes for {blocks} blocks" in str(caught.value)


def test_block_count() -> None:
    def choose(blocks: int | None = None, memory: int | None = None, context: int = 64) -> int:
        return choose_block_count(SPEC, context, 8, CPU, kv_blocks=blocks, kv_memory_bytes=memory)

    assert choose() == 1 + 8 * 4
    assert choose(blocks=7) == 7
    assert choose(memory=10 * block_bytes(SPEC) + 1) == 10
    assert choose(context=1 << 30) == (2 << 30) // block_bytes(SPEC)
    with pytest.raises(CapacityError, match="given twice"):
        choose(7, 7)

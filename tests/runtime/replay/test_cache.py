"""Block allocator: no overlap, all returned, runs preferred, misuse refused."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from glmc_runtime.errors import CapacityError, PlanError
from glmc_runtime.format.cache import CacheKey, CacheSpec, CacheTensor, impossible
from glmc_runtime.format.memory import block_bytes
from glmc_runtime.replay.cache import BlockAllocator, KVCache, choose_block_count
from tests.runtime.toy import key_value_cache

SPEC = key_value_cache(2, 3, 8, "bfloat16", 16, 4, "blocks_heads_tokens")
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
    for number, tensor in enumerate(cache.tensors.values()):
        tensor[2] = number + 1
    cache.copy_block(2, 3)
    for number, tensor in enumerate(cache.tensors.values()):
        assert (tensor[3] == number + 1).all() and not tensor[1].any()


def _latent(layout: str) -> CacheSpec:
    """Keys in two layers of other sizes, and a third tensor of one dimension in one of them."""
    rows = (
        CacheTensor("key", (3, 8), "bfloat16", (0,)),
        CacheTensor("key", (2, 4), "float32", (1,)),
        CacheTensor("latent", (5,), "int8", (1,)),
    )
    return CacheSpec(rows, 16, 4, layout)


def test_layers_may_have_other_tensors() -> None:
    cache = KVCache(_latent("blocks_heads_tokens"), 3, CPU)
    shapes = {key: tuple(tensor.shape) for key, tensor in cache.tensors.items()}
    assert shapes == {
        ("key", 0): (3, 3, 16, 8),
        ("key", 1): (3, 2, 16, 4),
        ("latent", 1): (3, 16, 5),
    }
    other = KVCache(_latent("blocks_tokens_heads"), 3, CPU)
    assert (
        other.tensor("key", 1).shape == (3, 16, 2, 4) and other.tensor("key", 1).dtype.itemsize == 4
    )
    assert block_bytes(cache.spec) == 16 * (3 * 8 * 2 + 2 * 4 * 4 + 5)
    assert sum(t.numel() * t.itemsize for t in other.tensors.values()) == 3 * block_bytes(
        cache.spec
    )
    for tensor in cache.tensors.values():
        tensor[1] = 1
    cache.copy_block(1, 2)
    assert all((tensor[2] == 1).all() for tensor in cache.tensors.values())
    with pytest.raises(PlanError, match="no cache 'latent' of layer 0"):
        cache.tensor("latent", 0)


def test_tensors_of_an_outer_engine() -> None:
    """Keys and values of a layer in one tensor, heads after tokens."""
    outer = torch.zeros(2, 7, 2, 16, 3, 8, dtype=torch.bfloat16)
    tensors = {
        CacheKey(name, layer): outer[layer, :, side].transpose(1, 2)
        for layer in range(2)
        for side, name in enumerate(("key", "value"))
    }
    cache = KVCache(SPEC, 7, CPU, tensors)
    cache.tensor("value", 1)[4] = 1
    cache.copy_block(4, 5)
    assert (outer[1, 5, 1] == 1).all() and not outer[1, :, 0].any() and not outer[0].any()
    assert cache.allocator.usable == 6
    for wrong, message in (
        ({**tensors, CacheKey("key", 1): outer[0, :6, 0].transpose(1, 2)}, "another"),
        ({**tensors, CacheKey("key", 1): tensors["key", 1].float()}, "another"),
        (
            {key: tensor for key, tensor in tensors.items() if key != ("value", 0)},
            "no tensor 'value'",
        ),
    ):
        with pytest.raises(PlanError, match=message):
            KVCache(SPEC, 7, CPU, wrong)


def _row(shape: tuple[int, ...], layers: tuple[int, ...] = (0,)) -> CacheTensor:
    return CacheTensor("key", shape, "int8", layers)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"layout": "tokens"}, "cache.layout is 'tokens'"),
        ({"block_size": 0}, "cache.block_size is 0"),
        ({"tensors": ()}, "cache.tensors is empty"),
        ({"tensors": (_row(()),)}, "cache.tensors[0].shape is ()"),
        (
            {"tensors": (_row((2, 0)),)},
            "cache.tensors[0].shape is (2, 0)",
        ),
        (
            {"tensors": (_row((2,), (0, 0)),)},
            "cache.tensors[0].layers is 0, 0",
        ),
        ({"tensors": (_row((2,), (-1,)),)}, "cache.tensors[0].layers is -1"),
        ({"tensors": (SPEC.tensors[0], SPEC.tensors[0])}, "cache.tensors[1].layers is 0 to 1"),
    ],
)
def test_what_no_cache_can_be(change: dict[str, Any], problem: str) -> None:
    assert impossible(SPEC) is None
    assert impossible(replace(SPEC, **change)) == problem


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

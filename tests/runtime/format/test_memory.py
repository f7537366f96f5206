"""Memory sums, against numbers worked out by hand and against what loading allocates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glmc_runtime.engine.loaded import load_into_memory
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.errors import RequestError
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.manifest import Limits, Manifest, WeightEntry
from glmc_runtime.format.memory import MemoryNeeds, block_bytes, memory_needs, parse_bytes
from glmc_runtime.format.phases import DECODE, PREFILL
from glmc_runtime.format.plan import InputSpec, PhasePlan
from glmc_runtime.loading.loader import load_artifact
from glmc_runtime.replay.cache import KVCache, choose_block_count
from tests.runtime import toy


def manifest(path: Path) -> Manifest:
    """Two layers, one kv head of 4: a block of 8 tokens is 2 * 2 * 8 * 4 * 2 = 256 bytes."""
    return replace(
        load_artifact(path).manifest,
        cache=toy.key_value_cache(2, 1, 4, "bfloat16", 8, 5, "blocks_heads_tokens"),
        limits=Limits(40),
        phases=toy.entries((1, 4), (16, 32)),
        weights={
            "a": WeightEntry(("x",), "bfloat16", (10, 10)),
            "b": WeightEntry(("x",), "float32", (25,)),
        },
        weights_included=False,
    )


def plan(name: str, arena: Extent) -> PhasePlan:
    inputs = (
        InputSpec("token_ids", "int64", (Extent.of(tokens=1),)),
        InputSpec("cu_seqlens_q", "int32", (Extent.of(sequences=1, constant=1),)),
        InputSpec("cu_seqlens_q_host", "int32", (Extent.of(sequences=1, constant=1),)),
    )
    return PhasePlan(name, inputs, (), (), (), 0, arena)


PLANS = {
    PREFILL.key: plan("prefill", Extent.of(tokens=10, sequences=1)),
    DECODE.key: plan("decode", Extent.of(tokens=100, constant=7)),
}


@pytest.fixture(scope="module")
def needs(toy_path: Path) -> MemoryNeeds:
    return memory_needs(manifest(toy_path), PLANS)


def test_by_hand(needs: MemoryNeeds) -> None:
    assert needs.weights == 200 + 100
    # Prefill at 32 tokens and 4 sequences takes 324, decode at 4 takes 407; they share one arena.
    assert needs.arena == 407
    assert needs.inputs == (32 * 8 + 64) + (64 + 64)  # each begins at a multiple of 64
    assert (needs.block, needs.token) == (256, 32)
    assert needs.blocks(3, 17) == 1 + 3 * 3
    assert needs.total(3, 17) == 300 + 407 + 448 + 2560
    assert needs.total(0, 0) == 300 + 407 + 448 + 256


def test_the_longest_context_is_the_last_that_fits(needs: MemoryNeeds) -> None:
    for room, blocks in ((0, 0), (511, 0), (512, 1), (1279, 3), (1536, 5), (10**9, 5)):
        assert needs.longest_context(1, room) == blocks * 8
    assert [needs.longest_context(batch, 6 * 256) for batch in needs.batches] == [40, 8]
    assert replace(needs, max_context=35).longest_context(1, 10**9) == 35


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
@pytest.mark.parametrize("cache", [0, 1000, 2000, 3000, 5000, 9000])
def test_agrees_with_the_sum(batch: int, cache: int, needs: MemoryNeeds) -> None:
    context = needs.longest_context(batch, cache)
    if context:
        assert needs.total(batch, context) <= needs.without_cache + cache
    if context < 40:
        assert needs.total(batch, context + 1) > needs.without_cache + cache


@pytest.mark.parametrize(("batch", "context"), [(5, 8), (1, 41), (-1, 8), (1, -1)])
def test_beyond_the_limits(batch: int, context: int, needs: MemoryNeeds) -> None:
    with pytest.raises(RequestError, match="batch up to 4, context up to 40"):
        needs.total(batch, context)


@pytest.mark.parametrize("memory", [None, 3000])
def test_loading_allocates_what_the_sum_says(memory: int | None, toy_path: Path) -> None:
    artifact = load_artifact(toy_path)
    needs = memory_needs(artifact.manifest, artifact.plans)
    loaded = load_into_memory(artifact, LoadOptions(guard_steps=0), None)
    assert needs.weights == sum(each.nbytes for each in loaded.weights.values())
    assert needs.arena == loaded.arena.size
    inputs = [loaded.step_inputs(key) for key in loaded.entries]
    assert needs.inputs == sum(each._device.nbytes for each in inputs)
    batch, context = needs.batches[-1], loaded.max_context
    spec, device = artifact.manifest.cache, torch.device("cpu")
    blocks = choose_block_count(
        spec, context, batch, device, kv_blocks=None, kv_memory_bytes=memory
    )
    cache = KVCache(spec, blocks, device)
    allocated = sum(each.nbytes for each in cache.tensors.values())
    assert allocated == blocks * needs.block == blocks * block_bytes(spec)
    if memory is None:
        assert needs.total(batch, context) == needs.without_cache + allocated
    else:
        assert allocated <= memory
        assert needs.blocks_within(memory) == cache.allocator.usable


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("96GiB", 96 << 30),
        ("96GB", 96 * 10**9),
        ("1.5 KiB", 1536),
        ("24000MB", 24_000_000_000),
        ("7", 7),
        ("7B", 7),
        ("9" * 400 + "GiB", int("9" * 400) << 30),
    ],
)
def test_amounts_of_memory(text: str, size: int) -> None:
    parsed = parse_bytes(text)
    # More digits than a Decimal computes with are rounded, not refused.
    assert parsed == size if len(text) < 20 else abs(parsed - size) * 10**20 < size


@pytest.mark.parametrize("text", ["", "-1GiB", "1e9", "GiB", "1TiB", "1iB", "1GiBB", "nan"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(RequestError, match="no amount of memory"):
        parse_bytes(text)

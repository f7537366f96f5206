"""Memory sums, against numbers worked out by hand and against what the runtime allocates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import glmc_runtime
from glmc.artifact.memory import Fit, fits, largest_context, memory_use, weight_bytes
from glmc.artifact.reader import read_artifact
from glmc.errors import UsageError
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.manifest import Guards, Limits, Manifest, WeightEntry
from glmc_runtime.format.phases import DECODE, PREFILL
from glmc_runtime.format.plan import InputSpec, PhasePlan
from glmc_runtime.replay.cache import block_bytes
from tests.artifact.toy import parts, write
from tests.runtime import toy
from tests.runtime.toy import key_value_cache


def manifest() -> Manifest:
    """Two layers, one kv head of 4: a block of 8 tokens is 2 * 2 * 8 * 4 * 2 = 256 bytes."""
    return Manifest(
        **vars(
            parts(
                cache=key_value_cache(2, 1, 4, "bfloat16", 8, 5, "blocks_heads_tokens"),
                limits=Limits(40),
                phases=toy.entries((1, 4), (16, 32)),
            )
        ),
        weights={
            "a": WeightEntry("x", "bfloat16", (10, 10)),
            "b": WeightEntry("x", "float32", (25,)),
        },
        weights_included=False,
        files={},
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


def test_by_hand() -> None:
    use = memory_use(manifest(), PLANS, batch=3, context=17)
    assert use.weights == weight_bytes(manifest()) == 200 + 100
    # Prefill at 32 tokens and 4 sequences takes 324, decode at 4 takes 407; they share one arena.
    assert use.arena == 407
    assert use.inputs == (32 * 8 + 5 * 4) + (4 * 8 + 5 * 4)
    assert block_bytes(manifest().cache) == 256
    assert use.cache == (1 + 3 * 3) * 256
    assert use.total == 300 + 407 + 328 + 2560


def test_longest_context_is_the_last_that_fits() -> None:
    fixed = memory_use(manifest(), PLANS, 1, 0).total
    for room, blocks in ((0, 0), (255, 0), (256, 1), (1023, 3), (1280, 5), (10**9, 5)):
        assert largest_context(manifest(), PLANS, 1, fixed + room) == blocks * 8
    assert largest_context(manifest(), PLANS, 1, fixed - 1) == 0
    assert fits(manifest(), PLANS, fixed + 5 * 256) == (Fit(1, 40), Fit(4, 8))


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
@pytest.mark.parametrize("device", [1000, 2000, 3000, 5000, 9000])
def test_agrees_with_the_sum(batch: int, device: int) -> None:
    context = largest_context(manifest(), PLANS, batch, device)
    if context:
        assert memory_use(manifest(), PLANS, batch, context).total <= device
    if context < 40:
        assert memory_use(manifest(), PLANS, batch, context + 1).total > device


@pytest.mark.parametrize(("batch", "context"), [(5, 8), (1, 41), (-1, 8), (1, -1)])
def test_beyond_the_limits(batch: int, context: int) -> None:
    with pytest.raises(UsageError, match="batch up to 4, context up to 40"):
        memory_use(manifest(), PLANS, batch, context)


def test_without_phases() -> None:
    assert memory_use(manifest(), {}, 0, 0).total == 300 + 256


def test_a_context_limit_that_is_no_whole_block() -> None:
    odd = replace(manifest(), limits=Limits(35), phases=toy.entries((1,), (16,)))
    assert largest_context(odd, PLANS, 1, 10**9) == 35


def test_equals_what_the_runtime_allocates(tmp_path: Path) -> None:
    written = write(tmp_path / "toy", parts=parts(guards=Guards("0.1.0", "2.5", "cpu")))
    session = glmc_runtime.load(tmp_path / "toy")
    plans = read_artifact(tmp_path / "toy").plans
    largest = written.phase(DECODE.key).buckets[-1]
    use = memory_use(written, plans, largest, written.limits.max_context)
    cache = session.cache
    allocated = sum(t.numel() * t.itemsize for t in cache.tensors.values())
    assert use.cache == allocated

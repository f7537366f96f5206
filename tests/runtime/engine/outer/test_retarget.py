"""Plans for another block size, and with the head in segments of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from glmc_runtime.engine.outer.retarget import retargeted, with_block_size, with_head_apart
from glmc_runtime.errors import RequestError
from glmc_runtime.format.phases import DECODE, PhaseKey
from glmc_runtime.format.plan import Segment, ValueArgument
from glmc_runtime.loading.check import check_plan
from glmc_runtime.loading.loader import Artifact, load_artifact
from tests.runtime.toy import BLOCK_SIZE, BLOCKS_PER_SEQUENCE, toy_plan
from tests.runtime.toy_vendor import write_vendor_toy


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return load_artifact(write_vendor_toy(tmp_path_factory.mktemp("vendor") / "toy"))


@pytest.mark.parametrize("size", [1, 2, 8, 64])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_tables_and_integers_follow_the_block_size(vendor: Artifact, phase: str, size: int) -> None:
    manifest = with_block_size(vendor.manifest, size)
    columns = BLOCKS_PER_SEQUENCE * BLOCK_SIZE // size
    assert manifest.cache.blocks_per_sequence == columns
    plan = retargeted(vendor.plans[PhaseKey(phase)], vendor.manifest.cache, manifest)
    check_plan(plan, manifest)
    table = next(spec for spec in plan.inputs if spec.name == "block_tables")
    assert table.shape[1].constant == columns
    calls = [call for call in plan.calls if call.function.endswith("speculative_attention")]
    assert bool(calls) == (phase == "decode")
    for call in calls:
        assert call.arguments["block_size"] == ValueArgument(size)
        assert call.arguments["max_num_blocks_per_seq"] == ValueArgument(columns)
        old = next(one for one in vendor.plans[PhaseKey(phase)].calls if one.node == call.node)
        kept = {"head_num", "kv_head_num", "head_dim", "max_context_len"}
        assert all(call.arguments[name] == old.arguments[name] for name in kept)


def test_an_equal_cache_leaves_the_plan_alone(vendor: Artifact) -> None:
    manifest = with_block_size(vendor.manifest, BLOCK_SIZE)
    assert manifest == vendor.manifest
    plan = vendor.plans[DECODE.key]
    assert retargeted(plan, manifest.cache, manifest) is plan


@pytest.mark.parametrize("size", [3, 48, 128])
def test_blocks_that_tables_do_not_hold_whole_are_refused(vendor: Artifact, size: int) -> None:
    with pytest.raises(RequestError, match="no whole number") as caught:
        with_block_size(vendor.manifest, size)
    assert f"--block-size {size}" in caught.value.remedy


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_the_head_begins_a_segment(phase: str) -> None:
    plan = toy_plan(phase)
    assert plan.head is not None
    first = plan.head.first
    apart = with_head_apart(plan)
    assert replace(apart, segments=plan.segments) == plan
    assert first in [segment.first for segment in apart.segments]
    assert len(apart.segments) == len(plan.segments) + 1
    old, (body, head) = plan.segments[-1], apart.segments[-2:]
    assert body == Segment(old.first, first - 1, old.captured)
    assert head == Segment(first, old.last, old.captured)
    assert with_head_apart(apart) == apart
    assert with_head_apart(replace(plan, head=None)) == replace(plan, head=None)

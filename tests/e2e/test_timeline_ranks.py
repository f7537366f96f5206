"""The timeline of the shipped mixture on two ranks, cpu and emulated: every call of each rank once
a step, and a number of the communication."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmc.observe.timeline.diff import diff
from glmc.observe.timeline.kernel_names import COLLECTIVE
from glmc.observe.timeline.op_class import op_class
from glmc.observe.timeline.readers.open import open_timeline
from glmc.observe.timeline.steps import device_work, devices, select
from glmc.observe.timeline.totals import totals
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.format.phases import DECODE
from tests.e2e.build import CPU, EMULATED, Place
from tests.e2e.ranks import RankedBuilder
from tests.runtime.ranks.threads import session_of_threads

pytestmark = pytest.mark.usefixtures("shared_captures")
MODEL = Path(__file__).parents[2] / "models" / "tiny-moe"
SMALL = {"block_size": 16, "prefill_buckets": (16,), "decode_buckets": (1, 4), "max_context": 64}


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> RankedBuilder:
    return RankedBuilder(MODEL, tmp_path_factory.mktemp("timeline") / "artifacts", SMALL)


@pytest.mark.long
@pytest.mark.parametrize("place", [CPU, EMULATED[0]], ids=lambda place: place.name)
def test_two_ranks_are_read_rank_by_rank(
    builder: RankedBuilder, place: Place, tmp_path: Path
) -> None:
    emulated = place.target == "xpu"
    options = LoadOptions(emulate=True if emulated else None, kv_blocks=32)
    file = tmp_path / "t.json"
    with session_of_threads(builder.artifact(place, tensor_parallel=2), options) as session:
        with session.timeline(file):
            session.generate([[40, 50, 60]], max_new_tokens=4, ignore_eos=True)
        plan = session.artifact.plans[DECODE.key]
    names = [
        row["args"]["name"]
        for row in json.loads(file.read_text())["traceEvents"]
        if row["ph"] == "M" and "name" in row["args"]
    ]
    assert all(("emulated" in name) is emulated for name in names)
    read = open_timeline(file)
    assert sorted(devices(read)) == ["rank 0 device 0", "rank 1 device 0"]
    collectives = [call for call in plan.calls if call.function.startswith("collective.")]
    assert collectives
    for device in devices(read):
        for step in read.steps[1:]:
            work = device_work(read, device)[step.number]
            assert [event.call for event in work] == list(range(len(plan.calls)))
            kinds = [op_class(event) for event in work]
            assert kinds.count(COLLECTIVE) == len(collectives)
    found = totals(read, select(read, "decode", None))
    assert [each.device for each in found.by_device] == ["rank 0 device 0", "rank 1 device 0"]
    for each in found.by_device:
        parts = (each.operators_us, each.communication_us, each.bubbles_us)
        assert all(part is not None and 0 < part < each.time_us for part in parts)
    lever = diff(read, read, "decode", None).levers[2]
    assert lever.name == "communication" and lever.a == found.communication_us > 0

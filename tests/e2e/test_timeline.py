"""The timeline of the shipped mixture, cpu and emulated: every call once a step, with its node."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from glmc.observe.timeline.readers.open import open_timeline
from glmc.observe.timeline.steps import select, work_by_step
from glmc.observe.timeline.totals import totals
from glmc_runtime.format.phases import DECODE, PREFILL
from glmc_runtime.generate.session import Session
from tests.e2e.build import CPU, EMULATED, Builder, Place

pytestmark = pytest.mark.usefixtures("shared_captures")
MODEL = Path(__file__).parents[2] / "models" / "tiny-moe"
SMALL = {"prefill_buckets": (16,), "decode_buckets": (1, 4), "max_context": 128}


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(MODEL, tmp_path_factory.mktemp("timeline"))


@pytest.fixture(scope="module", params=[CPU, EMULATED[0]], ids=lambda place: place.name)
def session(request: pytest.FixtureRequest, builder: Builder) -> Session:
    place: Place = request.param
    return builder.session(place, "float32", **SMALL)


@pytest.fixture(scope="module")
def data(session: Session, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("timeline") / "t.json"
    with session.timeline(file):
        session.generate([[40, 50, 60], [33] * 8], max_new_tokens=4, ignore_eos=True)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_every_call_of_every_step_is_there_once(session: Session, data: dict[str, Any]) -> None:
    events = [event for event in data["traceEvents"] if event["ph"] == "X"]
    steps = [event for event in events if event["cat"] == "step"]
    assert [step["args"]["phase"] for step in steps] == ["prefill", *["decode"] * 3]
    plans = session.artifact.plans
    for step in steps:
        plan = plans[DECODE.key if step["args"]["phase"] == "decode" else PREFILL.key]
        mine = [event["args"] for event in events if event["args"]["step"] == step["args"]["step"]]
        calls = [args for args in mine if args.get("call") is not None]
        assert [(args["call"], args["node"], args["layer"], args["op"]) for args in calls] == [
            (place, call.node, call.layer, call.origin) for place, call in enumerate(plan.calls)
        ]
    assert {"moe_gate", "moe_ffn", "shared_expert"} <= {event["args"].get("op") for event in events}


def test_calls_take_no_longer_than_their_step(data: dict[str, Any]) -> None:
    events = [event for event in data["traceEvents"] if event["ph"] == "X"]
    for step in [event for event in events if event["cat"] == "step"]:
        number = step["args"]["step"]
        calls = [
            event for event in events if event["cat"] != "step" and event["args"]["step"] == number
        ]
        assert 0 < sum(event["dur"] for event in calls) <= step["dur"]
        for before, after in pairwise(calls):
            assert before["ts"] + before["dur"] <= after["ts"] + 0.002  # three digits are written


def test_an_emulated_run_says_so_everywhere(session: Session, data: dict[str, Any]) -> None:
    events = [event for event in data["traceEvents"] if event["ph"] == "X"]
    assert {event["args"]["emulated"] for event in events} == {session.emulated}
    names = [event["args"]["name"] for event in data["traceEvents"] if "name" in event["args"]]
    assert all(("emulated" in name) is session.emulated for name in names)
    assert data["glmc"]["emulated"] is session.emulated
    assert data["glmc"]["attribution"] == "exact"


def test_its_reader_finds_every_call(
    session: Session, data: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "t.json"
    file.write_text(json.dumps(data))
    read = open_timeline(file)
    assert read.facts.emulated is session.emulated and read.facts.model == "tiny-moe"
    work, calls = work_by_step(read), len(session.artifact.plans[DECODE.key].calls)
    assert [len(work[step.number]) for step in read.steps[1:]] == [calls] * 3
    found = totals(read, select(read, "decode", None))
    assert [kind.name for kind in found.layer_kinds] == ["dense layer 0", "moe layers 1..3"]
    assert "other" not in {total.name for total in found.by_class}
    assert {"moe_gate", "moe_ffn", "rope"} <= {total.name for total in found.by_pass}
    parts = [found.bubbles[cause] for cause in ("host prepares", "cause not known")]
    assert parts[0] > 0 and parts[1] == 0, "the host times its own calls"

"""The file: lanes by name, what an emulated run says, what is beside the calls or unknown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import glmc_runtime
from glmc_runtime.format.phases import DECODE
from glmc_runtime.replay.timeline.records import CallTime, Recording, StepSizes, StepTime
from glmc_runtime.replay.timeline.trace import NodeFacts, Plans, Ranked, TimelineFacts, trace_of

FACTS = TimelineFacts("toy", "cuda", "bfloat16", "NVIDIA H200", False, False, {"torch": "2.11"})
STEP = StepTime(0, "decode", StepSizes(2, 2, 4, 9, 9), True, False, 10.0, 40.0)


@pytest.fixture
def plans(toy_path: Path) -> Plans:
    plan = glmc_runtime.load(toy_path).artifact.plans[DECODE.key]
    first = plan.calls[0].node
    return Plans({"decode": plan}, {"decode": {first: NodeFacts(("canonical",), "m.py:7 f")}})


def lanes(data: dict[str, Any]) -> dict[tuple[int, int], str]:
    """Names of threads, with that of their process."""
    named = [event for event in data["traceEvents"] if event["ph"] == "M"]
    processes = {each["pid"]: each for each in named if each["name"] == "process_name"}
    return {
        (each["pid"], each["tid"]): f"{processes[each['pid']]['args']['name']}: "
        f"{each['args']['name']}"
        for each in named
        if each["name"] == "thread_name"
    }


def events_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    return [event for event in data["traceEvents"] if event["ph"] == "X"]


def test_each_stream_of_each_device_has_a_lane(plans: Plans) -> None:
    calls = tuple(
        CallTime(0, 0, 20.0, 30.0, device, stream) for device, stream in ((0, 7), (0, 9), (1, 7))
    )
    data = trace_of([Ranked(Recording((STEP,), calls, "exact"), plans)], FACTS)
    names = lanes(data)
    assert sorted(names.values()) == [
        "device 0 (cuda): stream 7",
        "device 0 (cuda): stream 9",
        "device 1 (cuda): stream 7",
        "host: steps",
    ]
    found = [names[event["pid"], event["tid"]] for event in events_of(data)]
    assert found[0] == "host: steps" and sorted(found[1:]) == sorted(names.values())[:3]


def test_every_lane_and_event_of_an_emulated_run_says_so(plans: Plans) -> None:
    facts = replace(FACTS, target="xpu", device="cpu", emulated=True)
    recording = Recording((STEP,), (CallTime(0, 0, 20.0, 30.0),), "exact")
    data = trace_of([Ranked(recording, plans)], facts)
    assert set(lanes(data).values()) == {
        "host (emulated): steps (emulated)",
        "device 0 (xpu, emulated): stream 0 (emulated)",
    }
    assert all(event["args"]["emulated"] is True for event in events_of(data))
    assert data["glmc"]["emulated"] is True


def test_a_call_has_what_the_plan_and_the_artifact_say(plans: Plans) -> None:
    kernels = (("first", 3.0), ("second", 4.0))
    time = CallTime(0, 0, 20.0, 30.0, 0, 7, kernels, overlap=1.5)
    event = events_of(trace_of([Ranked(Recording((STEP,), (time,), "exact"), plans)], FACTS))[1]
    call = plans.plans["decode"].calls[0]
    assert (event["cat"], event["ts"], event["dur"]) == ("call", 20.0, 10.0)
    assert event["args"] == {
        "node": call.node,
        "op": call.origin,
        "passes": ["canonical"],
        "source": "m.py:7 f",
        "layer": call.layer,
        "module": call.module,
        "phase": "decode",
        "step": 0,
        "call": 0,
        "function": call.function,
        "bytes": None,
        "operations": None,
        "floor_us": None,
        "share_of_floor": None,
        "emulated": False,
        "kernels": [{"name": "first", "us": 3.0}, {"name": "second", "us": 4.0}],
        "overlap_us": 1.5,
    }


def test_what_is_no_call_has_no_node(plans: Plans) -> None:
    calls = (
        CallTime(0, "step inputs", 11.0, 12.0),
        CallTime(0, None, 13.0, 14.0, kernels=(("argmax", 1.0),)),
        CallTime(None, None, 50.0, 51.0, kernels=(("fill", 1.0),)),
    )
    events = events_of(trace_of([Ranked(Recording((STEP,), calls, "exact"), plans)], FACTS))[1:]
    assert [(event["cat"], event["name"]) for event in events] == [
        ("beside", "step inputs"),
        ("other", "argmax"),
        ("other", "fill"),
    ]
    assert [event["args"]["function"] for event in events] == ["step inputs", None, None]
    assert [event["args"]["step"] for event in events] == [0, 0, None]
    assert all(event["args"]["node"] is event["args"]["call"] is None for event in events)


def test_the_file_says_what_was_recorded(plans: Plans) -> None:
    about = trace_of([Ranked(Recording((STEP,), (), "by order: why"), plans)], FACTS)["glmc"]
    assert about.pop("costs").startswith("left out")
    assert about == {
        "format": 1,
        "model": "toy",
        "target": "cuda",
        "dtype": "bfloat16",
        "device": "NVIDIA H200",
        "emulated": False,
        "interpreted": False,
        "versions": {"torch": "2.11"},
        "ranks": 1,
        "attribution": "by order: why",
        "clock": None,
    }


def test_each_rank_has_lanes_of_its_own(plans: Plans) -> None:
    facts = replace(FACTS, target="xpu", device="cpu", emulated=True, ranks=2)
    recording = Recording((STEP,), (CallTime(0, 0, 20.0, 30.0),), "exact")
    other = Recording((replace(STEP, begin=9.0),), (CallTime(0, 0, 25.0, 31.0),), "by order: why")
    data = trace_of([Ranked(recording, plans, 0), Ranked(other, plans, 1)], facts)
    names = lanes(data)
    assert list(names.values()) == [
        "rank 0 host (emulated): steps (emulated)",
        "rank 0 device 0 (xpu, emulated): stream 0 (emulated)",
        "rank 1 host (emulated): steps (emulated)",
        "rank 1 device 0 (xpu, emulated): stream 0 (emulated)",
    ]
    events = events_of(data)
    assert [event["ts"] for event in events] == [9.0, 10.0, 20.0, 25.0]
    for event in events:
        rank = event["args"]["rank"]
        assert names[event["pid"], event["tid"]].startswith(f"rank {rank} ")
    assert [event["args"]["rank"] for event in events] == [1, 0, 0, 1]
    order = [
        (row["pid"], row["args"]["sort_index"])
        for row in data["traceEvents"]
        if row["name"] == "process_sort_index"
    ]
    assert order == [(pid, pid) for pid, _ in order] and len({*order}) == 4
    about = data["glmc"]
    assert (about["ranks"], about["attribution"]) == (2, "exact; by order: why")
    assert about["clock"].startswith("the monotonic clock")

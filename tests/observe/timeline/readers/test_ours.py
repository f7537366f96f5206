"""Timelines of our own runtime: nodes, passes, floors, replays, and lanes that say emulated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glmc.errors import UsageError
from glmc.observe.timeline.bubbles import selected_times
from glmc.observe.timeline.op_class import op_class
from glmc.observe.timeline.readers.open import open_timeline
from glmc.observe.timeline.steps import work_by_step
from glmc.observe.timeline.table import Kind, StepKind, Timeline
from tests.observe.timeline.test_totals import of

LANE = "device 0 stream 0 (emulated)"
ABOUT = {
    "format": 1,
    "model": "tiny-moe",
    "target": "cuda",
    "dtype": "bfloat16",
    "device": "NVIDIA H200",
    "emulated": False,
    "interpreted": False,
    "versions": {"torch": "2.13.0"},
    "attribution": "exact",
}


def named(process: int, name: str, thread: str) -> list[dict[str, Any]]:
    return [
        {"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": name}},
        {"ph": "M", "name": "thread_name", "pid": process, "tid": 0, "args": {"name": thread}},
    ]


def event(cat: str, process: int, ts: float, dur: float, **args: Any) -> dict[str, Any]:
    name = f"{args.get('function')} {args.get('node')}"
    row = {"ph": "X", "cat": cat, "name": name, "pid": process, "tid": 0, "ts": ts, "dur": dur}
    return {**row, "args": args}


def step(number: int, ts: float, dur: float, **args: Any) -> dict[str, Any]:
    sizes = {"phase": "decode", "tokens": 2, "sequences": 2, "replayed": False}
    return event("step", 1, ts, dur, step=number, **{**sizes, **args})


def call(number: int, ts: float, dur: float, node: str = "", **args: Any) -> dict[str, Any]:
    return event("call", 2, ts, dur, step=number, node=node, call=0, **args)


def read(folder: Path, *rows: dict[str, Any], **about: Any) -> Timeline:
    emulated = " (emulated)" if about.get("emulated") else ""
    lanes = named(1, f"host{emulated}", "steps") + named(2, f"device 0 (xpu{emulated})", "stream 0")
    path = folder / "ours.json"
    path.write_text(json.dumps({"traceEvents": [*lanes, *rows], "glmc": {**ABOUT, **about}}))
    return open_timeline(path)


def test_a_call_with_all_that_its_plan_knows(tmp_path: Path) -> None:
    made = read(
        tmp_path,
        step(0, 0, 50),
        call(
            0,
            5,
            10,
            node="model.layers.3.mlp.gate#gather",
            op="moe_gate",
            passes=["moe_gate", "canonical"],
            layer=3,
            module="model.layers.3.mlp.gate",
            function="kunlun_ops.moe_sigmoid_group_topk_norm",
            bytes=4096,
            operations=1024,
            floor_us=2.5,
            share_of_floor=0.25,
        ),
    )
    facts = made.facts
    assert (facts.source, facts.model, facts.target) == ("glmc", "tiny-moe", "cuda")
    assert facts.attribution == "exact" and facts.layers == "by node"
    assert made.steps[0].kind == StepKind("decode", 2, 2)
    (found,) = work_by_step(made)[0]
    assert found.kind is Kind.CALL and op_class(found) == "router"
    assert found.node == "model.layers.3.mlp.gate#gather" and found.layer == 3
    assert found.passes == ("moe_gate", "canonical")
    assert (found.bytes, found.operations, found.floor_us) == (4096, 1024, 2.5)
    assert found.lane == "device 0 stream 0"
    assert of(made).floor_us == 2.5


def test_what_the_file_leaves_open_is_left_open(tmp_path: Path) -> None:
    made = read(
        tmp_path,
        step(0, 0, 50),
        call(0, 5, 10, node=None, op=None, passes=None, layer=None, function=None, bytes=None),
        event("beside", 2, 20, 1, step=0, function="step inputs"),
        event("other", 2, 30, 1, step=None),
        costs="left out",
    )
    first, second = work_by_step(made)[0]
    assert first.node == "" and first.passes == () and first.layer is None
    assert second.name == "step inputs" and second.kind is Kind.KERNEL
    assert made.facts.remarks == ("costs: left out",)


def test_an_emulated_run_says_so_in_every_lane(tmp_path: Path) -> None:
    made = read(tmp_path, step(0, 0, 50), call(0, 5, 10, function="x"), emulated=True)
    assert made.facts.emulated
    assert {each.lane for each in made.events} == {
        "host (emulated)",
        "device 0 stream 0 (emulated)",
    }
    assert made.events[1].device == "device 0"


def test_gaps_of_a_host_that_computes_are_its_own(tmp_path: Path) -> None:
    rows = (step(0, 0, 50), call(0, 5, 10, function="x"), call(0, 20, 10, function="y"))
    for about in ({"device": "cpu"}, {"emulated": True}):
        assert of(read(tmp_path, *rows, **about)).bubbles["host prepares"] == 5
    assert of(read(tmp_path, *rows)).bubbles["cause not known"] == 5


def test_gaps_of_a_device_by_its_launches(tmp_path: Path) -> None:
    graph = {"launched_us": 1.0, "queued_us": 4.0, "correlation": 9}
    made = read(
        tmp_path,
        step(0, 0, 30, replayed=True),
        call(0, 5, 10, function="x", **graph),
        call(0, 18, 10, function="y", **graph),
        call(0, 40, 5, function="z", launched_us=28.0, queued_us=31.0, correlation=10),
    )
    causes = of(made).bubbles
    assert causes["between kernels of a graph"] == 3 and of(made).replayed
    assert causes["host prepares"] == 3 and causes["between queued kernels"] == 9


def test_a_collective_is_communication(tmp_path: Path) -> None:
    made = read(tmp_path, step(0, 0, 8), call(0, 5, 10, function="cuda.reduce", op="all_reduce"))
    assert of(made).communication_us == 10


def test_steps_are_those_of_the_file(tmp_path: Path) -> None:
    made = read(
        tmp_path,
        step(0, 0, 8, phase="prefill", tokens=30, sequences=1),
        call(0, 90, 5, function="late"),
        step(1, 50, 8),
        call(1, 100, 5, function="x"),
    )
    assert [each.kind.phase for each in made.steps] == ["prefill", "decode"]
    assert {number: len(some) for number, some in work_by_step(made).items()} == {0: 1, 1: 1}
    assert selected_times(made, of(made).selection)


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="another release of glmc"):
        read(tmp_path, step(0, 0, 8), format=2)


def test_each_rank_is_a_device_of_its_own(tmp_path: Path) -> None:
    """The second computes longer, and the first waits for it in the collective."""
    lanes = [
        row
        for rank in range(2)
        for row in (
            *named(1 + 2 * rank, f"rank {rank} host (emulated)", "steps (emulated)"),
            *named(2 + 2 * rank, f"rank {rank} device 0 (xpu, emulated)", "stream 0 (emulated)"),
        )
    ]
    rows = []
    for rank, takes in enumerate((10, 30)):
        mine = [
            step(0, 5 * (1 - rank), 60),
            call(0, 10, takes, function="x"),
            call(0, 10 + takes, 45 - takes, function="collective.all_reduce", op="all_reduce"),
        ]
        for row in mine:
            row["pid"] += 2 * rank
            row["args"]["rank"] = rank
        rows += mine
    about = {**ABOUT, "emulated": True, "ranks": 2, "clock": "one"}
    path = tmp_path / "ranks.json"
    path.write_text(json.dumps({"traceEvents": [*lanes, *rows], "glmc": about}))
    made = open_timeline(path)
    assert {each.lane for each in made.events} == {
        f"rank {rank} {of}" for rank in range(2) for of in ("host (emulated)", LANE)
    }
    assert [(each.number, each.start_us) for each in made.steps] == [(0, 5.0)]
    found = of(made)
    assert found.device == "rank 1 device 0"
    assert [
        (each.device, each.operators_us, each.communication_us, each.waiting_us)
        for each in found.by_device
    ] == [("rank 0 device 0", 10, 35, 20), ("rank 1 device 0", 30, 15, 0)]
    assert made.facts.remarks == ("times of all ranks are by one clock: one",)
    about["ranks"] = 4
    path.write_text(json.dumps({"traceEvents": [*lanes, *rows], "glmc": about}))
    assert "only rank 0..1 of 4 ranks is in the file" in open_timeline(path).facts.remarks

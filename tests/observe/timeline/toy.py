"""A timeline of the sample's compile (tests/observe/sample.py): each call takes its number in us,
and a second more in a step of warm-up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from glmc.observe.timeline.table import Kind, StepKind, Timeline, TimelineEvent
from tests.observe.timeline.readers.test_ours import call, event, named, step
from tests.observe.timeline.sample import DECODE, kernel, timeline

NODES = (
    "model.embed_tokens#embedding",
    *(f"model.layers.{at}.mlp{own}" for at in range(3) for own in (".gate#topk", "#add")),
)
PREFILL = StepKind("prefill", 1, 3)


def calls(step: int, extra: float = 0.0) -> list[TimelineEvent]:
    """The calls of a plan one after the other, 20 us apart."""
    return [
        replace(
            kernel(f"kernel {at}", 1000 * step + 20 * at, 1 + at + extra, step=step),
            kind=Kind.CALL,
            node=node,
            call=at,
        )
        for at, node in enumerate(NODES)
    ]


def toy_timeline(**facts: Any) -> Timeline:
    """A step of prefill, two of decode that are warm-up, and three that count."""
    events = [event for step in range(6) for event in calls(step, 5.0 if step < 3 else 0.0)]
    made = timeline(
        *events,
        label="run.json",
        **{"model": "toy-moe", "target": "xpu", "emulated": True, **facts},
    )
    kinds = (PREFILL, *(DECODE,) * 5)
    steps = tuple(replace(step, kind=kind) for step, kind in zip(made.steps, kinds, strict=True))
    return replace(made, steps=steps)


def toy_trace(path: Path) -> Path:
    """The file of an emulated decode step in which two calls were timed, and something beside."""
    timed = [(0, call(0, 0, 1, node=NODES[0])), (3, call(0, 30, 4, node=NODES[3]))]
    rows = [
        *named(1, "host (emulated)", "steps (emulated)"),
        *named(2, "device 0 (xpu emulated)", "stream 0 (emulated)"),
        step(0, 0, 100, phase="decode", sequences=1, tokens=1),
        *({**row, "args": {**row["args"], "call": at}} for at, row in timed),
        event("beside", 2, 50, 5, step=0, function="inputs"),
    ]
    about = {"format": 1, "model": "toy-moe", "target": "xpu", "emulated": True, "device": "cpu"}
    path.write_text(json.dumps({"traceEvents": rows, "glmc": about}), encoding="utf-8")
    return path

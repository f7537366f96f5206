"""Small timelines with times that can be added up by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glmc.observe.timeline.table import (
    Facts,
    Kind,
    Step,
    StepKind,
    Timeline,
    TimelineEvent,
)

VLLM = Path(__file__).parent / "data" / "vllm_decode.json.gz"
"""Steps 3 to 5 of the decode of one sequence by vLLM 0.25.0, GLM-4.5-Air cut to 12 layers, on an
H200 with torch.profiler; arguments that no reader reads are left out."""
DECODE = StepKind("decode", 1, 1)


def kernel(
    name: str, start: float, duration: float, stream: int = 7, step: int = 0, **fields: Any
) -> TimelineEvent:
    """A kernel on device 0."""
    lane = f"device 0 stream {stream}"
    return TimelineEvent(start, duration, lane, Kind.KERNEL, name, step=step, **fields)


def timeline(
    *events: TimelineEvent, label: str = "a", kind: StepKind = DECODE, **facts: Any
) -> Timeline:
    """Events with the steps that they name, each 1000 us after the one before."""
    numbers = sorted({event.step for event in events if event.step is not None})
    steps = tuple(
        Step(number, f"step {number}", kind, 1000.0 * number, 1000.0 * (number + 1))
        for number in numbers
    )
    ordered = tuple(sorted(events, key=lambda event: event.start_us))
    return Timeline(label, Facts("sample", **facts), steps, ordered)


LAYER = (
    ("rms_norm_kernel", 2.0),
    ("nvjet_qkv", 10.0),
    ("rope_kernel", 1.0),
    ("flash_fwd_kernel", 5.0),
    ("nvjet_out", 8.0),
    ("fused_moe_kernel", 20.0),
)
"""The kernels of one layer with their durations, one after the other."""


def noisy(steps: int = 5) -> Timeline:
    """Steps of three layers of nodes, in each of which another kernel is slow."""
    events = []
    at = 0.0
    for step in range(steps):
        for place in range(6):
            time = 70.0 + step if place == step else 5.0
            name = ("nvjet", "flash_fwd_kernel", "rms_norm_kernel")[place % 3]
            node, layer = f"model.layers.{place // 2}.mlp#{place}", place // 2
            fields = {"queued_us": at, "node": node, "layer": layer, "call": place}
            events.append(kernel(name, at, time, step=step, **fields))
            at += time + 2
    return timeline(*events)


def layered(
    layers: int, steps: int = 3, label: str = "a", kernels: Sequence[tuple[str, float]] = LAYER
) -> Timeline:
    """``layers`` equal layers in each step, and a product and a choice after them; each kernel is
    queued when it begins, 1 us after the one before ended."""
    events = []
    for step in range(steps):
        at = 1000.0 * step
        for name, duration in (*kernels * layers, ("nvjet_head", 30.0), ("ArgMax", 3.0)):
            events.append(kernel(name, at, duration, step=step, queued_us=at))
            at += duration + 1
    return timeline(*events, label=label)

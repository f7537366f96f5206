"""Totals of the step that is shown: per kind of op, kind of layer and pass, and as a whole.

Every number is of the one step whose time is the median, so that parts and rows add up: medians of
rows would not, on a host whose steps differ.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from glmc.observe.spans import spans
from glmc.observe.timeline.bubbles import StepTime, median_time, selected_times
from glmc.observe.timeline.by_device import DeviceTotal, by_device
from glmc.observe.timeline.kernel_names import EXPERTS, OP_CLASSES, ROUTER
from glmc.observe.timeline.op_class import op_class
from glmc.observe.timeline.steps import Selection
from glmc.observe.timeline.table import Step, Timeline, TimelineEvent

K = TypeVar("K", bound=Hashable)
OUTSIDE = "outside the layers"
NO_PASS = "no pass"
_MOE, _DENSE = "moe", "dense"


@dataclass(frozen=True)
class Total:
    """``kernel_us`` adds up durations; ``device_us`` counts each instant once, shared among what
    runs in it. ``floor_us`` is that of the events that have one, None without any."""

    name: str
    launches: int
    kernel_us: float
    device_us: float
    floor_us: float | None = None


@dataclass(frozen=True)
class LayerKind:
    """Layers with the same kinds of ops; ``launches`` of one of them."""

    name: str
    layers: tuple[int, ...]
    launches: float


@dataclass(frozen=True)
class Totals:
    """``step`` in numbers, the one of ``selection`` whose time is the median: ``time_us`` is
    ``operators_us``, ``communication_us`` and the bubbles, which are None and empty where the file
    has no times. They are those of ``device``; ``by_device`` has each where the file has several.
    ``range_us`` is the time of the fastest and of the slowest step of the selection."""

    selection: Selection
    step: Step
    device: str
    range_us: tuple[float, float]
    time_us: float
    operators_us: float
    communication_us: float
    bubbles_us: float | None
    busy_us: float
    overlapped_us: float
    bubbles: Mapping[str, float]
    gaps: int
    launches: int
    replayed: bool
    floor_us: float | None
    by_class: tuple[Total, ...]
    by_layer: tuple[Total, ...]
    by_pass: tuple[Total, ...]
    layer_kinds: tuple[LayerKind, ...]
    by_device: tuple[DeviceTotal, ...] = ()


def totals(timeline: Timeline, selection: Selection) -> Totals:
    """The totals of the selected step whose time is the median."""
    times, timed = selected_times(timeline, selection), timeline.facts.timed
    time = median_time(times)
    kinds = layer_kinds(time)
    names = {layer: kind.name for kind in kinds for layer in kind.layers}
    step = grouped(time, lambda event: ("step",))["step"]
    layers = grouped(time, lambda event: (OUTSIDE if event.layer is None else names[event.layer],))
    all_us = [each.time_us for each in times]
    return Totals(
        selection=selection,
        step=time.step,
        device=time.events[0].device,
        range_us=(min(all_us), max(all_us)),
        time_us=time.time_us,
        operators_us=time.operators_us,
        communication_us=time.communication_us,
        bubbles_us=time.bubbles.total_us if timed else None,
        busy_us=time.device.busy_us,
        overlapped_us=time.device.overlapped_us,
        bubbles=time.bubbles.causes if timed else {},
        gaps=time.bubbles.count,
        launches=step.launches,
        replayed=time.step.replayed is True,
        floor_us=step.floor_us,
        by_class=tuple(
            sorted(
                grouped(time, lambda event: (op_class(event),)).values(),
                key=lambda total: OP_CLASSES.index(total.name),
            )
        ),
        by_layer=tuple(sorted(layers.values(), key=_largest)) if kinds else (),
        by_pass=_by_pass(time),
        layer_kinds=kinds,
        by_device=by_device(timeline, selection),
    )


def grouped(time: StepTime, keys: Callable[[TimelineEvent], Iterable[K]]) -> dict[K, Total]:
    """A total for each key, in the order of their first events; an event counts for all of its
    keys. The name of a total is that of its key."""
    groups: dict[K, list[tuple[TimelineEvent, float]]] = defaultdict(list)
    for event, charged in zip(time.events, time.device.charged, strict=True):
        for key in keys(event):
            groups[key].append((event, charged))
    return {key: _total(str(key), group) for key, group in groups.items()}


def _total(name: str, group: Sequence[tuple[TimelineEvent, float]]) -> Total:
    floors = [event.floor_us for event, _ in group if event.floor_us is not None]
    return Total(
        name,
        len(group),
        sum(event.duration_us for event, _ in group),
        sum(charged for _, charged in group),
        sum(floors) if floors else None,
    )


def _by_pass(time: StepTime) -> tuple[Total, ...]:
    """Empty where no event knows its passes."""
    if not any(event.passes for event in time.events):
        return ()
    made = grouped(time, lambda event: event.passes or (NO_PASS,))
    return tuple(sorted(made.values(), key=_largest))


def _largest(total: Total) -> float:
    return -total.device_us


def layer_kinds(time: StepTime) -> tuple[LayerKind, ...]:
    """Dense layers and those with experts, and how many launches one layer of each has."""
    classes: dict[int, set[str]] = defaultdict(set)
    counts: dict[int, int] = defaultdict(int)
    for event in time.events:
        if event.layer is not None:
            classes[event.layer].add(op_class(event))
            counts[event.layer] += 1
    kinds: dict[str, list[int]] = defaultdict(list)
    for layer in sorted(classes):
        kinds[_MOE if classes[layer] & {EXPERTS, ROUTER} else _DENSE].append(layer)
    return tuple(
        LayerKind(
            f"{kind} layer{'s' if len(layers) > 1 else ''} {spans(layers)}",
            tuple(layers),
            float(median(counts[layer] for layer in layers)),
        )
        for kind, layers in kinds.items()
    )

"""Totals of the steps that are shown: per kind of op, kind of layer and pass, and per step.

Every number is the median over the steps. Totals of a group are first added up within a step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from glmc.observe.spans import spans
from glmc.observe.timeline.bubbles import CAUSES, StepTime, selected_times
from glmc.observe.timeline.by_device import DeviceTotal, by_device
from glmc.observe.timeline.kernel_names import EXPERTS, OP_CLASSES, ROUTER
from glmc.observe.timeline.op_class import op_class
from glmc.observe.timeline.steps import Selection
from glmc.observe.timeline.table import Timeline, TimelineEvent

K = TypeVar("K", bound=Hashable)
OUTSIDE = "outside the layers"
NO_PASS = "no pass"
_MOE, _DENSE = "moe", "dense"


@dataclass(frozen=True)
class Total:
    """``kernel_us`` adds up durations; ``device_us`` counts each instant once, shared among what
    runs in it. ``floor_us`` is that of the events that have one, None without any."""

    name: str
    launches: float
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
    """A step in numbers: ``time_us`` is ``operators_us``, ``communication_us`` and the bubbles
    of each step; the medians of these add up only nearly. None and empty where the file has no
    times. They are those of ``device``; ``by_device`` has each where the file has several."""

    selection: Selection
    device: str
    time_us: float
    operators_us: float
    communication_us: float
    bubbles_us: float | None
    busy_us: float
    overlapped_us: float
    bubbles: Mapping[str, float]
    gaps: float
    launches: float
    replayed: bool
    floor_us: float | None
    by_class: tuple[Total, ...]
    by_layer: tuple[Total, ...]
    by_pass: tuple[Total, ...]
    layer_kinds: tuple[LayerKind, ...]
    by_device: tuple[DeviceTotal, ...] = ()


def totals(timeline: Timeline, selection: Selection) -> Totals:
    """The totals of the selected steps."""
    times, timed = selected_times(timeline, selection), timeline.facts.timed
    kinds = layer_kinds(times)
    names = {layer: kind.name for kind in kinds for layer in kind.layers}

    def middle(value: Callable[[StepTime], float]) -> float:
        return float(median(map(value, times)))

    bubbles = {
        cause: float(median(time.bubbles.causes[cause] for time in times)) for cause in CAUSES
    }
    step = grouped(times, lambda event: ("step",))["step"]
    layers = grouped(times, lambda event: (OUTSIDE if event.layer is None else names[event.layer],))
    return Totals(
        selection=selection,
        device=times[0].events[0].device,
        time_us=middle(lambda time: time.time_us),
        operators_us=middle(lambda time: time.operators_us),
        communication_us=middle(lambda time: time.communication_us),
        bubbles_us=middle(lambda time: time.bubbles.total_us) if timed else None,
        busy_us=middle(lambda time: time.device.busy_us),
        overlapped_us=middle(lambda time: time.device.overlapped_us),
        bubbles=bubbles if timed else {},
        gaps=middle(lambda time: time.bubbles.count),
        launches=step.launches,
        replayed=any(time.step.replayed for time in times),
        floor_us=step.floor_us,
        by_class=tuple(
            sorted(
                grouped(times, lambda event: (op_class(event),)).values(),
                key=lambda total: OP_CLASSES.index(total.name),
            )
        ),
        by_layer=tuple(sorted(layers.values(), key=_largest)) if kinds else (),
        by_pass=_by_pass(times),
        layer_kinds=kinds,
        by_device=by_device(timeline, selection),
    )


def grouped(
    times: Sequence[StepTime], keys: Callable[[TimelineEvent], Iterable[K]]
) -> dict[K, Total]:
    """A total for each key, in the order of their first events; an event counts for all of its
    keys. The name of a total is that of its key."""
    steps = [_step_sums(time, keys) for time in times]
    return {
        key: _total(str(key), [sums.get(key, _NOTHING) for sums in steps])
        for key in dict.fromkeys(key for sums in steps for key in sums)
    }


_NOTHING = (0.0, 0.0, 0.0, 0.0, 0.0)


def _step_sums(
    time: StepTime, keys: Callable[[TimelineEvent], Iterable[K]]
) -> dict[K, tuple[float, ...]]:
    """Launches, durations, device time, floor and how many events have a floor, by key."""
    sums: dict[K, list[float]] = defaultdict(lambda: [*_NOTHING])
    for event, charged in zip(time.events, time.device.charged, strict=True):
        for key in keys(event):
            row = sums[key]
            row[0] += 1
            row[1] += event.duration_us
            row[2] += charged
            row[3] += event.floor_us or 0.0
            row[4] += event.floor_us is not None
    return {key: tuple(row) for key, row in sums.items()}


def _total(name: str, sums: Sequence[tuple[float, ...]]) -> Total:
    """The medians over the sums of each step."""
    launches, kernel, device, floor = (float(median(each[at] for each in sums)) for at in range(4))
    known = any(each[4] for each in sums)
    return Total(name, launches, kernel, device, floor if known else None)


def _by_pass(times: Sequence[StepTime]) -> tuple[Total, ...]:
    """Empty where no event knows its passes."""
    if not any(event.passes for time in times for event in time.events):
        return ()
    made = grouped(times, lambda event: event.passes or (NO_PASS,))
    return tuple(sorted(made.values(), key=_largest))


def _largest(total: Total) -> float:
    return -total.device_us


def layer_kinds(times: Sequence[StepTime]) -> tuple[LayerKind, ...]:
    """Dense layers and those with experts, and how many launches one layer of each has."""
    classes: dict[int, set[str]] = defaultdict(set)
    counts: dict[int, list[int]] = defaultdict(lambda: [0] * len(times))
    for place, time in enumerate(times):
        for event in time.events:
            if event.layer is not None:
                classes[event.layer].add(op_class(event))
                counts[event.layer][place] += 1
    kinds: dict[str, list[int]] = defaultdict(list)
    for layer in sorted(classes):
        kinds[_MOE if classes[layer] & {EXPERTS, ROUTER} else _DENSE].append(layer)
    return tuple(
        LayerKind(
            f"{kind} layer{'s' if len(layers) > 1 else ''} {spans(layers)}",
            tuple(layers),
            float(median(count for layer in layers for count in counts[layer])),
        )
        for kind, layers in kinds.items()
    )

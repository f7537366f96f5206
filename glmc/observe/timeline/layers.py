"""The layer of each event: by its module, or by the repeating period of the kernels of a step."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from glmc.observe.timeline.kernel_names import ATTENTION, LINEAR, OTHER
from glmc.observe.timeline.op_class import op_class
from glmc.observe.timeline.period import REPEATS, find_period
from glmc.observe.timeline.steps import work_by_step
from glmc.observe.timeline.table import WORK, Timeline, TimelineEvent

BY_MODULE = "by module"
UNKNOWN = f"unknown: no sequence of kernels repeats {REPEATS} times and fills half of a step"
_NUMBERED = re.compile(r"\blayers\.(\d+)\b|\w*(?:Layer|Block)_(\d+)\b")


@dataclass(frozen=True)
class Layers:
    """Where each layer of a sequence begins, where the last one ends, and how that was found."""

    starts: tuple[int, ...]
    end: int
    how: str


def with_layers(timeline: Timeline) -> Timeline:
    """The timeline with layers, and with how they were found in its facts."""
    if any(event.layer is not None for event in timeline.events):
        how = timeline.facts.layers or BY_MODULE
        return replace(timeline, facts=replace(timeline.facts, layers=how))
    numbers = {event.module: layer_of_module(event.module) for event in timeline.events}
    if any(number is not None for number in numbers.values()):
        events = tuple(replace(event, layer=numbers[event.module]) for event in timeline.events)
        return replace(timeline, events=events, facts=replace(timeline.facts, layers=BY_MODULE))
    return _by_period(timeline)


def layer_of_module(module: str) -> int | None:
    """17 of ``model.layers.17.mlp`` and of ``Glm4MoeDecoderLayer_17/Glm4MoeAttention_17``; classes
    are numbered in the order of their first call."""
    match = _NUMBERED.search(module)
    return None if match is None else int(match.group(1) or match.group(2))


def layers_of(tokens: Sequence[str]) -> Layers | None:
    """The layers of a step's kernels, by the kind of op of each or the name of an unknown one."""
    period = find_period(tokens)
    if period is None:
        return None
    how = f"by a period of {period.length} kernels of one stream, {period.repeats} times in a row"
    starts = _before_attention(tokens)
    if len(starts) < period.repeats:
        begins = range(period.start, period.start + period.repeats * period.length, period.length)
        end = begins[-1] + period.length
        how = f"{len(begins)} {how}; with which of them a layer begins is not known"
        return Layers(tuple(begins), end, how)
    each = sum(period.start <= start < period.start + period.length for start in starts) or 1
    last = starts[-each] - starts[-each - 1]
    end = min(len(tokens), starts[-1] + last)
    how = f"{len(starts)} {how}; each begins before the products that feed attention"
    return Layers(starts, end, how)


def _before_attention(tokens: Sequence[str]) -> tuple[int, ...]:
    """Where a layer begins: the kernel before the products that each attention comes after."""
    starts: list[int] = []
    product: int | None = None  # the first product since another kernel ran, before attention
    for at, token in enumerate(tokens):
        if token == LINEAR and (at == 0 or tokens[at - 1] != LINEAR):
            product = at
        elif token == ATTENTION and product is not None:
            starts.append(max(product - 1, 0))
            product = None
    return tuple(starts)


def _by_period(timeline: Timeline) -> Timeline:
    known = cache(layers_of)
    layers: dict[int, int] = {}
    how: Counter[str] = Counter()
    for work in work_by_step(timeline).values():
        lane = Counter(event.lane for event in work).most_common(1)[0][0]
        main = [event for event in work if event.lane == lane]
        found = known(tuple(map(_token, main)))
        how[found.how if found else UNKNOWN] += 1
        if found is not None:
            layers.update(_placed(work, main, found))
    events = tuple(
        replace(event, layer=layers.get(id(event))) if event.kind in WORK else event
        for event in timeline.events
    )
    text = how.most_common(1)[0][0] if how else UNKNOWN
    return replace(timeline, events=events, facts=replace(timeline.facts, layers=text))


def _token(event: TimelineEvent) -> str:
    kind = op_class(event)
    return event.name if kind == OTHER else kind


def _placed(
    events: Sequence[TimelineEvent], main: Sequence[TimelineEvent], layers: Layers
) -> dict[int, int]:
    """The layer of each event: those of other streams by the time at which they begin."""
    times = [main[start].start_us for start in layers.starts]
    end = main[layers.end].start_us if layers.end < len(main) else main[-1].end_us
    placed: dict[int, int] = {}
    for event in events:
        at = bisect_right(times, event.start_us) - 1
        if at >= 0 and event.start_us < end:
            placed[id(event)] = at
    return placed

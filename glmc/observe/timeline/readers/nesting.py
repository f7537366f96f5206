"""Which ranges of a thread are open at a time: modules around a launch, ops inside an op."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from glmc.observe.timeline.readers.chrome import ChromeEvent, Lane


def enclosing(
    ranges: Iterable[ChromeEvent], points: Iterable[ChromeEvent]
) -> Iterator[tuple[ChromeEvent, tuple[ChromeEvent, ...]]]:
    """Each point with the other ranges of its thread that it begins in, the outermost first; both
    come in the order of a :class:`ChromeTrace`."""
    of_lane: dict[Lane, list[ChromeEvent]] = defaultdict(list)
    for each in ranges:
        of_lane[each.lane].append(each)
    by_lane: dict[Lane, list[ChromeEvent]] = defaultdict(list)
    for point in points:
        by_lane[point.lane].append(point)
    for lane, some in by_lane.items():
        yield from _sweep(of_lane.get(lane, []), some)


def leaves(ranges: Sequence[ChromeEvent]) -> list[ChromeEvent]:
    """The ranges that no other range of their thread begins in."""
    parents = {id(around[-1]) for _, around in enclosing(ranges, ranges) if around}
    return [each for each in ranges if id(each) not in parents]


def _sweep(
    ranges: Sequence[ChromeEvent], points: Sequence[ChromeEvent]
) -> Iterator[tuple[ChromeEvent, tuple[ChromeEvent, ...]]]:
    at = 0
    stack: list[ChromeEvent] = []
    for point in points:
        while at < len(ranges) and ranges[at].start_us <= point.start_us:
            while stack and stack[-1].end_us <= ranges[at].start_us:
                stack.pop()
            stack.append(ranges[at])
            at += 1
        while stack and stack[-1].end_us <= point.start_us:
            stack.pop()
        yield point, tuple(each for each in stack if each is not point)

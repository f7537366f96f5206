"""Which call the work of a device was for, from what the profiler has recorded.

What a thunk launches is in its range on the thread of the host. A device graph is one launch, whose
kernels are matched with the nodes of the graph (graph_match.py). What fits neither is of no call.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from glmc_runtime.replay.timeline.graph_match import matched
from glmc_runtime.replay.timeline.graph_nodes import Nodes
from glmc_runtime.replay.timeline.host_timer import EXACT
from glmc_runtime.replay.timeline.kineto import DeviceWork, HostRange, Recorded
from glmc_runtime.replay.timeline.records import CallTime, Recording, StepTime
from glmc_runtime.replay.timeline.timer import Place

STEP, CALL, GRAPH = "step ", "call ", "graph "
"""What names of our ranges begin with: then the number of a step, a place, a graph's key."""
NOTHING_RECORDED = "torch.profiler has recorded no work of the device"
_GRAPH_LAUNCHES = ("cudaGraphLaunch", "cuGraphLaunch")


@dataclass(frozen=True)
class Attributed:
    """Calls in the order of their lanes, and "exact" or why some work is of no call."""

    calls: tuple[CallTime, ...]
    attribution: str


@dataclass(frozen=True)
class _Piece:
    """A record with what is known of it. Pieces of one ``group`` are one call."""

    work: DeviceWork
    step: int | None
    place: Place | None
    launch: HostRange | None
    group: object


def recording_of(
    recorded: Recorded, graphs: Mapping[str, Nodes], steps: Mapping[int, StepTime]
) -> Recording:
    """``graphs`` has the nodes of each graph by its key, ``steps`` by number all but their times;
    a step that is not among them has not ended. Times are from the first record on."""
    found = attributed(recorded, graphs)
    begins = [each.begin for each in recorded.ranges] + [each.begin for each in recorded.work]
    origin = min(begins, default=0.0)
    named = {int(each.name[len(STEP) :]): each for each in recorded.ranges if _is_step(each)}
    ended = [number for number in sorted(named) if number in steps]
    return Recording(
        tuple(
            replace(
                steps[number], begin=named[number].begin - origin, end=named[number].end - origin
            )
            for number in ended
        ),
        tuple(_moved(call, origin, steps) for call in found.calls),
        found.attribution,
    )


def _moved(call: CallTime, origin: float, steps: Mapping[int, StepTime]) -> CallTime:
    launch = None if call.launch is None else (call.launch[0] - origin, call.launch[1] - origin)
    step, place = (call.step, call.place) if call.step in steps else (None, None)
    begin, end = call.begin - origin, call.end - origin
    return replace(call, step=step, place=place, begin=begin, end=end, launch=launch)


def attributed(recorded: Recorded, graphs: Mapping[str, Nodes]) -> Attributed:
    """The work of the device as calls."""
    if not recorded.work:
        return Attributed((), NOTHING_RECORDED)
    reasons: dict[str, int] = defaultdict(int)
    pieces = list(_pieces(recorded, graphs, reasons))
    said = [f"{reason} ({count} launches)" for reason, count in reasons.items()]
    calls = tuple(_without_overlap(_joined(pieces)))
    return Attributed(calls, f"by order: {'; '.join(said)}" if said else EXACT)


def _pieces(
    recorded: Recorded, graphs: Mapping[str, Nodes], reasons: dict[str, int]
) -> Iterator[_Piece]:
    steps = _Ranges([each for each in recorded.ranges if _is_step(each)])
    inner = _Ranges([each for each in recorded.ranges if not _is_step(each)])
    work: dict[int, list[DeviceWork]] = defaultdict(list)
    for record in recorded.work:
        work[record.correlation].append(record)
    for launch in recorded.launches:
        records = work.pop(launch.correlation, ())
        around = steps.around(launch)
        step = None if around is None else int(around.name[len(STEP) :])
        within = inner.around(launch)
        if records and within is not None and launch.name.startswith(_GRAPH_LAUNCHES):
            found = _of_graph(within, records, graphs)
            if isinstance(found, str):
                reasons[found] += 1
            else:
                for place, record in found:
                    yield _Piece(record, step, place, launch, (launch.correlation, place))
                left = {id(record) for _, record in found}
                records = [record for record in records if id(record) not in left]
            within = None
        place = None if within is None else _place(within)
        for record in records:
            group = object() if place is None else (id(within), place)
            yield _Piece(record, step, place, launch, group)
    for records in work.values():
        for record in records:
            yield _Piece(record, None, None, None, object())


def _is_step(each: HostRange) -> bool:
    return each.name.startswith(STEP)


def _of_graph(within: HostRange, records: Sequence[DeviceWork], graphs: Mapping[str, Nodes]) -> Any:
    key = within.name.removeprefix(GRAPH)
    nodes = graphs.get(key, "nobody has asked for its nodes")
    found = nodes if isinstance(nodes, str) else matched(nodes, records)
    return f"{found}, of {key}" if isinstance(found, str) else found


def _place(within: HostRange) -> Place | None:
    if not within.name.startswith(CALL):
        return None
    text = within.name[len(CALL) :]
    return int(text) if text.isdecimal() else text


def _joined(pieces: Sequence[_Piece]) -> list[CallTime]:
    """A call for all pieces of a group that ran on one stream."""
    groups: dict[Any, list[_Piece]] = defaultdict(list)
    for piece in pieces:
        groups[piece.group, piece.work.device, piece.work.stream].append(piece)
    calls = []
    for mine in groups.values():
        mine.sort(key=lambda piece: piece.work.begin)
        first, launches = mine[0], [piece.launch for piece in mine if piece.launch is not None]
        begins, ends = [each.begin for each in launches], [each.end for each in launches]
        calls.append(
            CallTime(
                first.step,
                first.place,
                first.work.begin,
                max(piece.work.end for piece in mine),
                first.work.device,
                first.work.stream,
                tuple((each.work.name, each.work.end - each.work.begin) for each in mine),
                launch=(min(begins), max(ends)) if launches else None,
                correlation=first.work.correlation,
            )
        )
    return sorted(calls, key=lambda call: (call.device, call.stream, call.begin))


def _without_overlap(calls: Sequence[CallTime]) -> Iterator[CallTime]:
    """A kernel may begin while the one before it on its stream ends (programmatic dependent
    launch): the time until then is the other's."""
    ends: dict[tuple[int, int], float] = {}
    for call in calls:
        lane = call.device, call.stream
        begin = max(call.begin, ends.get(lane, call.begin))
        end = max(call.end, begin)
        ends[lane] = end
        yield replace(call, begin=begin, end=end, overlap=begin - call.begin)


class _Ranges:
    """Ranges that hold no other, by the thread that they are of."""

    def __init__(self, ranges: Sequence[HostRange]) -> None:
        self._ranges: dict[Any, list[HostRange]] = defaultdict(list)
        for each in ranges:
            self._ranges[each.thread].append(each)
        self._begins = {key: [each.begin for each in its] for key, its in self._ranges.items()}

    def around(self, launch: HostRange) -> HostRange | None:
        """The range in which a launch began."""
        begins = self._begins.get(launch.thread, [])
        at = bisect_right(begins, launch.begin) - 1
        if at < 0:
            return None
        found = self._ranges[launch.thread][at]
        return found if launch.begin <= found.end else None

"""The file of a timeline: Chrome trace events, which Perfetto and chrome://tracing open.

Steps are on the lane of the host, calls on a lane for each stream of a device. Each rank of several
has lanes of its own. The key ``glmc`` beside the events says what was recorded, and how calls were
found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from glmc_runtime.format.plan import PhasePlan
from glmc_runtime.replay.timeline.records import CallTime, Recording, StepTime

FORMAT = 1
HOST = 1
_DIGITS = 3
NOT_COUNTED = "left out: the runtime doesn't know the ops; glmc run adds costs to files of one rank"
ONE_CLOCK = "the monotonic clock of the host that all ranks are on, from one origin"


@dataclass(frozen=True)
class TimelineFacts:
    """What was recorded, and where. ``emulated`` and ``interpreted`` as in an engine; ``ranks`` are
    those of the artifact."""

    model: str
    target: str
    dtype: str
    device: str
    emulated: bool
    interpreted: bool
    versions: Mapping[str, str]
    ranks: int = 1

    @property
    def place(self) -> str:
        """The target as the name of a lane has it."""
        said = [self.target, "emulated" * self.emulated, "interpreted" * self.interpreted]
        return f"({', '.join(filter(None, said))})"


@dataclass(frozen=True)
class NodeFacts:
    """What made a node or changed it, and its line of the model."""

    passes: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Plans:
    """The plans by phase, and of their nodes what the artifact says, as far as it does."""

    plans: Mapping[str, PhasePlan]
    nodes: Mapping[str, Mapping[str, NodeFacts]] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranked:
    """What was timed of a ``rank`` that runs ``plans``; its number is None where it is the only
    one."""

    recording: Recording
    plans: Plans
    rank: int | None = None


def trace_of(timed: Sequence[Ranked], facts: TimelineFacts) -> dict[str, Any]:
    """The file as plain data."""
    lanes: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    for each in timed:
        found = [*_lanes(each.recording, facts)], [*_events(each.recording, each.plans, facts)]
        if each.rank is not None:
            _give(each.rank, max((row["pid"] for row in lanes), default=0), *found)
        lanes += found[0]
        events += found[1]
    events.sort(key=lambda event: event["ts"])
    about = {
        "format": FORMAT,
        **asdict(facts),
        "attribution": "; ".join(dict.fromkeys(each.recording.attribution for each in timed)),
        "costs": NOT_COUNTED,
        "clock": ONE_CLOCK if len(timed) > 1 else None,
    }
    return {"traceEvents": [*lanes, *events], "glmc": about}


def _give(
    rank: int, taken: int, lanes: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]]
) -> None:
    """Let lanes and events be those of a rank; processes up to ``taken`` are others'."""
    for row in (*lanes, *events):
        row["pid"] += taken
        args = row["args"]
        if row["name"] == "process_name":
            args["name"] = f"rank {rank} {args['name']}"
        elif "sort_index" in args:
            args["sort_index"] = row["pid"]
    for event in events:
        event["args"]["rank"] = rank


def _events(recording: Recording, plans: Plans, facts: TimelineFacts) -> Iterator[dict[str, Any]]:
    phases = {step.number: step.phase for step in recording.steps}
    for step in recording.steps:
        yield _step_event(step, facts)
    for call in recording.calls:
        phase = None if call.step is None else phases.get(call.step)
        yield _call_event(call, phase, plans, facts)


def _step_event(step: StepTime, facts: TimelineFacts) -> dict[str, Any]:
    args = {
        "step": step.number,
        "phase": step.phase,
        **asdict(step.sizes),
        "replayed": step.replayed,
        "guarded": step.guarded,
        "emulated": facts.emulated,
    }
    name = f"step {step.number} {step.phase}"
    return _event("step", name, HOST, 0, (step.begin, step.end), args)


def _call_event(
    time: CallTime, phase: str | None, plans: Plans, facts: TimelineFacts
) -> dict[str, Any]:
    """Of a call, of what the runtime does beside the calls, or of what nobody knows."""
    args: dict[str, Any] = {"node": None, "op": None, "passes": None, "layer": None, "module": None}
    args |= {"phase": phase, "step": time.step, "call": None, "function": None}
    kind, name = "other", time.kernels[0][0] if time.kernels else "unknown"
    if isinstance(time.place, str):
        kind, name = "beside", time.place
        args["function"] = name
    elif time.place is not None and phase is not None:
        call = plans.plans[phase].calls[time.place]
        kind, name = "call", f"{call.function} {call.node}"
        made = plans.nodes.get(phase, {}).get(call.node)
        args |= {"node": call.node, "op": call.origin, "layer": call.layer, "module": call.module}
        args |= {"call": time.place, "function": call.function}
        args |= {} if made is None else {"passes": list(made.passes), "source": made.source}
    args |= {"bytes": None, "operations": None, "floor_us": None, "share_of_floor": None}
    args["emulated"] = facts.emulated
    if time.kernels:
        args["kernels"] = [
            {"name": kernel, "us": round(us, _DIGITS)} for kernel, us in time.kernels
        ]
        args["overlap_us"] = round(time.overlap, _DIGITS)
    if time.launch is not None:
        begun, returned = time.launch
        args |= {"launched_us": round(begun, _DIGITS), "queued_us": round(returned, _DIGITS)}
        args["correlation"] = time.correlation
    return _event(kind, name, _device(time), time.stream, (time.begin, time.end), args)


def _event(
    kind: str, name: str, process: int, thread: int, times: tuple[float, float], args: object
) -> dict[str, Any]:
    begin, end = times
    return {
        "ph": "X",
        "cat": kind,
        "name": name,
        "pid": process,
        "tid": thread,
        "ts": round(begin, _DIGITS),
        "dur": round(max(end - begin, 0.0), _DIGITS),
        "args": args,
    }


def _lanes(recording: Recording, facts: TimelineFacts) -> Iterator[dict[str, Any]]:
    emulated = " (emulated)" if facts.emulated else ""
    yield from _named(HOST, f"host{emulated}", {0: f"steps{emulated}"})
    streams: dict[int, set[int]] = {}
    for call in recording.calls:
        streams.setdefault(call.device, set()).add(call.stream)
    for device, its in sorted(streams.items()):
        threads = {stream: f"stream {stream}{emulated}" for stream in sorted(its)}
        yield from _named(HOST + 1 + device, f"device {device} {facts.place}", threads)


def _named(process: int, name: str, threads: Mapping[int, str]) -> Iterator[dict[str, Any]]:
    def about(kind: str, thread: int, **args: object) -> dict[str, Any]:
        return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": args}

    yield about("process_name", 0, name=name)
    yield about("process_sort_index", 0, sort_index=process)
    for thread, text in threads.items():
        yield about("thread_name", thread, name=text)


def _device(time: CallTime) -> int:
    return HOST + 1 + time.device

"""The table that every profiler's file is read into: events, steps, and what is known of them.

All times are microseconds on the clock of the file. An event is of one lane: ``host`` and its
threads, or ``device N`` and its streams. Those of a rank of several begin with ``rank N``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

HOST_LANE = "host"
DEVICE_LANE = "device"
RANK_LANE = "rank"
NOT_OURS = "not known: no plan of glmc wrote the file"


class Kind(Enum):
    """What an event is. Everything but ``HOST`` and ``STEP`` is work of a device.

    ``CALL`` is a call of a plan of ours, ``COPY`` also a fill.
    """

    HOST = "host"
    KERNEL = "kernel"
    COPY = "copy"
    COLLECTIVE = "collective"
    STEP = "step"
    CALL = "call"


WORK = frozenset({Kind.KERNEL, Kind.COPY, Kind.COLLECTIVE, Kind.CALL})


@dataclass(frozen=True)
class TimelineEvent:
    """One row.

    ``module`` is a module's path, or the classes that it is nested in; ``op`` the op of a plan's
    node, or the framework's op that launched it. ``correlation`` joins what one launch started:
    all kernels of a device graph have one. ``launched_us`` and ``queued_us`` are when the host's
    launch began and had returned, None where the file does not say. ``op_class`` is the kind of op
    where the place of a kernel says more than its name (places.py). ``call`` is the place of a call
    in its plan, None where no plan of ours was run.
    """

    start_us: float
    duration_us: float
    lane: str
    kind: Kind
    name: str
    node: str = ""
    module: str = ""
    layer: int | None = None
    op: str = ""
    passes: tuple[str, ...] = ()
    step: int | None = None
    bytes: int | None = None
    operations: int | None = None
    floor_us: float | None = None
    correlation: str = ""
    launched_us: float | None = None
    queued_us: float | None = None
    op_class: str = ""
    call: int | None = None

    @property
    def end_us(self) -> float:
        return self.start_us + self.duration_us

    @property
    def device(self) -> str:
        """``device 0`` of ``device 0 stream 7``, ``rank 1 device 0`` of that of a rank."""
        words = self.lane.split(" ")
        return " ".join(words[: 4 if words[0] == RANK_LANE else 2])


@dataclass(frozen=True)
class StepKind:
    """Steps that can be compared: equal phase and size; a size is None where it is not known."""

    phase: str
    sequences: int | None
    tokens: int | None

    def __str__(self) -> str:
        phase = self.phase or "step of unknown phase"
        sizes = [
            f"{count} {name if count != 1 else name[:-1]}"
            for count, name in ((self.sequences, "sequences"), (self.tokens, "tokens"))
            if count is not None
        ]
        return f"{phase} of {', '.join(sizes)}" if sizes else phase


@dataclass(frozen=True)
class Step:
    """One step: what the host launched from ``start_us`` on and before ``end_us``, or where the
    file has it ``on_device`` alone, what ran there. ``replayed`` where a device graph did."""

    number: int
    name: str
    kind: StepKind
    start_us: float
    end_us: float
    replayed: bool | None = None
    on_device: bool = False


@dataclass(frozen=True)
class Facts:
    """What is known of a file as a whole.

    ``tried`` says whether the reader has been tried on real files of this kind, ``timed`` whether
    the file says when events began and not only how long they took. ``attribution`` is how events
    found their nodes, ``layers`` how they found their layers.
    """

    source: str
    tried: bool = True
    timed: bool = True
    model: str = ""
    target: str = ""
    dtype: str = ""
    device: str = ""
    emulated: bool = False
    interpreted: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)
    attribution: str = ""
    layers: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Timeline:
    """A file in one table; ``events`` ascend by their start."""

    label: str
    facts: Facts
    steps: tuple[Step, ...]
    events: tuple[TimelineEvent, ...]

"""Two timelines: where the time of one step goes in A and in B, and what A pays that B does not.

A row is what both sides call the same: a node of a plan that both know, with the layer's number
left out; else a module and the kind of op; else the kind of op; a kernel of no known kind goes by
its name. Every event is in one row, so that the rows of a step add up to its busy time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum

from glmc.errors import UsageError
from glmc.observe.timeline.bubbles import StepTime, median_step
from glmc.observe.timeline.kernel_names import COLLECTIVE, OTHER
from glmc.observe.timeline.op_class import op_class
from glmc.observe.timeline.steps import Selection, selected, step_kinds
from glmc.observe.timeline.table import StepKind, Timeline, TimelineEvent
from glmc.observe.timeline.totals import Total, Totals, grouped, totals

LARGEST = 10
LEAST_US = 0.05
"""What a difference comes to that tables, of one digit, do not show as 0."""
_LAYER = re.compile(r"(\blayers\.)\d+|((?:Layer|Block)_)\d+")
_COUNTED = re.compile(r"(?<=[A-Za-z])_\d+\b")


class Aligned(Enum):
    """By what a row's events of both sides were found to be the same."""

    NODE = "node"
    MODULE = "module and op"
    OP_CLASS = "op"
    NAME = "name"


Key = tuple[Aligned, str]


@dataclass(frozen=True)
class DiffRow:
    """``a`` and ``b`` are None where a side has no such event."""

    aligned: Aligned
    name: str
    a: Total | None
    b: Total | None

    @property
    def difference_us(self) -> float:
        """What A pays more than B."""
        return (self.a.device_us if self.a else 0.0) - (self.b.device_us if self.b else 0.0)

    @property
    def floor_us(self) -> float | None:
        """That of the first side that knows one."""
        floors = (side.floor_us for side in (self.a, self.b) if side is not None)
        return next((floor for floor in floors if floor is not None), None)


@dataclass(frozen=True)
class Lever:
    """One of the three ways to make a step faster, in microseconds of each side; None where a side
    does not know it."""

    name: str
    a: float | None
    b: float | None
    floor_us: float | None

    @property
    def difference_us(self) -> float | None:
        return None if self.a is None or self.b is None else self.a - self.b


@dataclass(frozen=True)
class TimelineDiff:
    """``rows`` begin with the largest differences."""

    a: Totals
    b: Totals
    levers: tuple[Lever, ...]
    rows: tuple[DiffRow, ...]
    alignment: Alignment
    remarks: tuple[str, ...]

    @property
    def largest(self) -> tuple[DiffRow, ...]:
        """The first rows, without those that don't differ."""
        return tuple(row for row in self.rows[:LARGEST] if abs(row.difference_us) >= LEAST_US)

    @property
    def of_a_alone(self) -> tuple[DiffRow, ...]:
        """What A pays that B does not."""
        return tuple(row for row in self.rows if row.b is None)


def diff(a: Timeline, b: Timeline, phase: str | None, steps: slice | None) -> TimelineDiff:
    """The difference of the median steps of equal kind and size.

    Raises UsageError where the two have none.
    """
    chosen_a, chosen_b, remarks = paired(a, b, phase, steps)
    of_a, of_b = totals(a, chosen_a), totals(b, chosen_b)
    levers = (
        Lever("operator level", of_a.operators_us, of_b.operators_us, _floor(of_a, of_b, False)),
        Lever("bubbles", of_a.bubbles_us, of_b.bubbles_us, 0.0),
        Lever(
            "communication", of_a.communication_us, of_b.communication_us, _floor(of_a, of_b, True)
        ),
    )
    time_a, time_b = median_step(a, chosen_a), median_step(b, chosen_b)
    alignment = Alignment.of(time_a, time_b)
    rows = _rows(time_a, time_b, alignment)
    made = TimelineDiff(of_a, of_b, levers, rows, alignment, remarks)
    if made.largest:
        return made
    same = abs(of_a.time_us - of_b.time_us) < LEAST_US
    remark = "nothing differs" if same else "kernels take the same time: only bubbles differ"
    return replace(made, remarks=(*remarks, f"{remark}, no row by {LEAST_US} us or more"))


def paired(
    a: Timeline, b: Timeline, phase: str | None, steps: slice | None
) -> tuple[Selection, Selection, tuple[str, ...]]:
    """The steps of both that are compared: of the kind that both have most of. Where one side
    names no sizes, its steps are compared with those that the other has most of, and that is said.
    """
    kinds_a, kinds_b = step_kinds(a), step_kinds(b)
    common = [kind for kind in kinds_a if kind in kinds_b and phase in (None, kind.phase)]
    if common:
        most = max(common, key=lambda kind: min(kinds_a[kind], kinds_b[kind]))
        return selected(a, most, steps), selected(b, most, steps), ()
    vague = [kind for kind in (*kinds_a, *kinds_b) if None in (kind.sequences, kind.tokens)]
    some_a = [kind for kind in kinds_a if phase in (None, kind.phase, "") or not kind.phase]
    some_b = [kind for kind in kinds_b if phase in (None, kind.phase, "") or not kind.phase]
    if not vague or not some_a or not some_b:
        raise UsageError(
            "the two have no steps of equal phase and size",
            expected=f"A, {a.label}: {_kinds(kinds_a)}",
            found=f"B, {b.label}: {_kinds(kinds_b)}",
            remedy="record the same batch on both sides"
            + ("" if phase is None else ", or leave out --phase"),
        )
    most_a = max(some_a, key=lambda kind: kinds_a[kind])
    most_b = max(some_b, key=lambda kind: kinds_b[kind])
    remark = f"sizes of steps are not known on both sides: {most_a} is compared with {most_b}"
    return selected(a, most_a, steps), selected(b, most_b, steps), (remark,)


def _floor(a: Totals, b: Totals, collective: bool) -> float | None:
    """The floor of collectives or of everything else, of the first side that knows one."""
    for side in (a, b):
        floors = [
            total.floor_us
            for total in side.by_class
            if (total.name == COLLECTIVE) is collective and total.floor_us is not None
        ]
        if floors:
            return sum(floors)
    return None


def _kinds(kinds: Iterable[StepKind]) -> str:
    return "; ".join(map(str, kinds)) or "none"


def general(name: str) -> str:
    """A node or module with the numbers of its layers left out."""
    return _LAYER.sub(lambda match: f"{match[1] or match[2]}*", name)


def _module(event: TimelineEvent) -> str:
    """The module without layers, and without the counters of classes."""
    return _COUNTED.sub("", general(event.module)) if event.module else ""


@dataclass(frozen=True)
class Alignment:
    """What both sides know: nodes and modules without the numbers of layers."""

    nodes: frozenset[str]
    modules: frozenset[str]

    @classmethod
    def of(cls, a: StepTime, b: StepTime) -> Alignment:
        return cls(_shared(a, b, lambda event: general(event.node)), _shared(a, b, _module))

    def key(self, event: TimelineEvent) -> Key:
        """The row of an event."""
        if (node := general(event.node)) in self.nodes:
            return Aligned.NODE, node
        kind = op_class(event)
        if (module := _module(event)) in self.modules:
            return Aligned.MODULE, f"{module}: {kind}"
        return (Aligned.NAME, event.name) if kind == OTHER else (Aligned.OP_CLASS, kind)


def _rows(a: StepTime, b: StepTime, alignment: Alignment) -> tuple[DiffRow, ...]:
    of_a = grouped(a, lambda event: (alignment.key(event),))
    of_b = grouped(b, lambda event: (alignment.key(event),))
    rows = [
        DiffRow(key[0], key[1], *(_named(side.get(key), key[1]) for side in (of_a, of_b)))
        for key in dict.fromkeys((*of_a, *of_b))
    ]
    return tuple(sorted(rows, key=lambda row: (-abs(row.difference_us), row.name)))


def _named(total: Total | None, name: str) -> Total | None:
    """Under the name of its row: that of its key says how it was aligned, too."""
    return None if total is None else replace(total, name=name)


def _shared(a: StepTime, b: StepTime, read: Callable[[TimelineEvent], str]) -> frozenset[str]:
    """What events of both sides have."""
    of_a, of_b = ({read(event) for event in side.events} - {""} for side in (a, b))
    return frozenset(of_a & of_b)

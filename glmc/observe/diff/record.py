"""The result of a comparison, as plain data.

The two compiles are called A and B throughout. Steps are paired by name, nodes and calls by layer
and id, so that a pass which only one of them runs shifts nothing. Ids are relative to their layer,
as in a history; ``layers`` are all those in which the same differs, None for the outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA_VERSION = 1
Layers = tuple[int | None, ...]


@dataclass(frozen=True)
class SideFacts:
    """One of the two: ``label`` as it was named, ``kind`` is artifact, dump, history or compile."""

    label: str
    kind: str
    model: str
    target: str


@dataclass(frozen=True)
class Change:
    """A fact with two values; None where a side has none. ``group`` is what it is a fact of."""

    group: str
    name: str
    a: str | None
    b: str | None


@dataclass(frozen=True)
class MatchChange:
    """A rewrite that one side alone did, by the id of its anchor; ``side`` is 'a' or 'b'."""

    id: str
    layers: Layers
    side: str


@dataclass(frozen=True)
class NodeChange:
    """A node with its op, arguments and value on each side, or a kernel call with its function and
    arguments; None where a side has none of that id. With ``order`` both sides have all of them,
    and the first in another place is named with what stands there."""

    id: str
    layers: Layers
    a: str | None
    b: str | None
    order: bool = False


@dataclass(frozen=True)
class StepDiff:
    """A step of either side; ``a`` and ``b`` are its labels, None where it did not run.

    ``nodes`` differ from here on; those that differed after the step before and still do in the
    same way are counted in ``carried``, once for each layer.
    """

    name: str
    a: str | None
    b: str | None
    changes: tuple[Change, ...]
    matches: tuple[MatchChange, ...]
    nodes: tuple[NodeChange, ...]
    carried: int

    @property
    def differs(self) -> bool:
        return self.a is None or self.b is None or bool(self.changes or self.matches or self.nodes)


@dataclass(frozen=True)
class PlanDiff:
    """The plan of a phase: sizes, the number of calls of each kernel, the calls, and the buffers
    whose shape or dtype differs."""

    phase: str
    changes: tuple[Change, ...]
    kernels: tuple[Change, ...]
    calls: tuple[NodeChange, ...]
    buffers: tuple[NodeChange, ...]

    @property
    def differs(self) -> bool:
        return bool(self.changes or self.kernels or self.calls or self.buffers)


@dataclass(frozen=True)
class Comparison:
    """``changes`` are model, files, versions and options; ``steps`` and ``plans`` are all that
    either side has, whether they differ or not. ``remarks`` say what could not be compared."""

    a: SideFacts
    b: SideFacts
    changes: tuple[Change, ...]
    steps: tuple[StepDiff, ...]
    plans: tuple[PlanDiff, ...]
    remarks: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        steps = any(step.differs for step in self.steps)
        return bool(self.changes) or steps or any(plan.differs for plan in self.plans)

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": SCHEMA_VERSION, "differs": self.differs, **asdict(self)}

    def named(self, group: str) -> Iterator[Change]:
        """The changes of a group."""
        return (change for change in self.changes if change.group == group)

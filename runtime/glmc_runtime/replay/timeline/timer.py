"""What a phase tells whoever times its steps: when one runs, and which of its thunks is which call.

Nothing of it is in a bound step: a phase that has a timer runs the same thunks one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar, Union

from glmc_runtime.format.plan import PhasePlan
from glmc_runtime.replay.bound_step import Sizes

Place = Union[int, str]
"""A call by its place in the plan, or what the runtime does beside the calls, by its name."""
STEP_INPUTS = "step inputs"
KEPT_HIDDEN = "kept hidden states"


Looked = TypeVar("Looked")


class Recapture(Protocol):
    """Captures the thunks of a segment once more, into a graph that is thrown away. ``look`` is
    called after each of them with the stream that is captured; what it gives comes back with what
    the thunk is for."""

    def __call__(self, look: Callable[[int], Looked]) -> Sequence[tuple[Place, Looked]]: ...


@dataclass(frozen=True)
class DeviceGraph:
    """The device graph of a segment. ``recapture`` is None where it can't be captured by itself."""

    phase: str
    bucket: int
    segment: int
    recapture: Recapture | None

    @property
    def key(self) -> str:
        return f"{self.phase}, bucket {self.bucket}, segment {self.segment}"


class StepTimer(Protocol):
    """Times what runs inside of each ``with``."""

    def step(
        self, plan: PhasePlan, step: Sizes, *, replayed: bool, guarded: bool
    ) -> AbstractContextManager[object]:
        """A step of a plan, its inputs included. ``replayed``: of device graphs, as far as it has
        some; ``guarded``: vendor calls are looked at (:mod:`glmc_runtime.replay.guard_steps`)."""
        ...

    def call(self, place: Place) -> AbstractContextManager[object]:
        """One thunk of the step that runs."""
        ...

    def graph(self, graph: DeviceGraph) -> AbstractContextManager[object]:
        """The device graph of a segment of the step that runs."""
        ...

"""What a compile tells: typed events, and the one protocol of everything that hears them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from glmc.ir.program import Program
from glmc.pipeline.records import PassRecord


@dataclass(frozen=True)
class Event:
    """Something that happened in a compile. Those of a plan are in glmc/observe/events.py."""


@dataclass(frozen=True)
class StageBegun(Event):
    """A stage that takes time begins: capture, passes, the lowering of a phase, weights."""

    name: str


@dataclass(frozen=True)
class StageEnded(Event):
    """A stage has done its work; one that raises never ends."""

    name: str
    seconds: float


@dataclass(frozen=True)
class PassBegun(Event):
    """A pass begins; it ends with the StepDone of its name, or of the phases that it makes."""

    name: str


@dataclass(frozen=True)
class StepDone(Event):
    """``program`` as the step ``name`` of ``stage`` has left it: capture, a pass, or the making of
    a phase. ``record`` is what a pass did. The program goes on to change: copy what is kept."""

    name: str
    stage: str
    program: Program
    record: PassRecord | None = None

    @property
    def replaced(self) -> Mapping[str, str]:
        """Which node of the program reads as which of the program before."""
        return self.program.replaced


class Observer(Protocol):
    """Whoever hears a compile: dump, history, proof, bisect, progress. What it raises ends it."""

    def observe(self, event: Event) -> None: ...


class Observers:
    """Several observers, in order, as one."""

    def __init__(self, *each: Observer) -> None:
        self._each = each

    def observe(self, event: Event) -> None:
        """All of them hear it, also when one raises: the next may write what went wrong."""
        _tell(self._each, event)


NOBODY = Observers()


def _tell(observers: tuple[Observer, ...], event: Event) -> None:
    if observers:
        try:
            observers[0].observe(event)
        finally:
            _tell(observers[1:], event)


class CurrentStage:
    """What a compile is doing, as far as its events tell."""

    def __init__(self, first: str) -> None:
        self.name = first

    def observe(self, event: Event) -> None:
        if isinstance(event, StageBegun):
            self.name = event.name


@contextmanager
def stage(observer: Observer, name: str, seconds: MutableMapping[str, float]) -> Iterator[None]:
    """Tell of a stage around the block, and keep the seconds that it took."""
    observer.observe(StageBegun(name))
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started
    observer.observe(StageEnded(name, seconds[name]))

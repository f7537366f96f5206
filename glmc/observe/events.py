"""Events around a plan: what a compile is about to do, and what it has made."""

from __future__ import annotations

from dataclasses import dataclass

from glmc.artifact.inputs import Inputs
from glmc.artifact.packing import PackProgress
from glmc.compiled import Compiled
from glmc.job import Job
from glmc.observe.history.record import History
from glmc.pipeline.events import Event


@dataclass(frozen=True)
class JobBegun(Event):
    """All that the compile is made from was read; nothing was captured yet. ``inputs`` say what
    that is, of a compile that writes an artifact."""

    job: Job
    inputs: Inputs | None = None


@dataclass(frozen=True)
class PlanMade(Event):
    """Every phase has its plan. A verifier puts its verdicts by pass into ``verdicts``, for the
    report and for the history."""

    compiled: Compiled
    verdicts: dict[str, str]


@dataclass(frozen=True)
class Planned(Event):
    """The plan with its history, before weights are packed."""

    compiled: Compiled
    history: History | None = None


@dataclass(frozen=True)
class WeightsPacked(Event):
    """A piece of a weight was written into the artifact."""

    progress: PackProgress

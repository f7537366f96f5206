"""Seconds of the steps of a history, which are kept apart from it: they differ from run to run."""

from __future__ import annotations

from dataclasses import replace

from glmc.artifact.times import Times
from glmc.observe.history.record import History
from glmc_runtime.format.phases import PHASES

SPECIALISE = "specialise"  # makes the phases; its module imports torch, which reading needs not
LOWER = "lower "  # before a phase: the stage in which it is lowered


def without_times(history: History) -> History:
    """The history of which the same input makes the same."""
    return _timed(history, {})


def with_times(history: History, times: Times | None) -> History:
    """The history with the seconds that were recorded of its steps: of each phase those of the pass
    that makes them all."""
    if times is None:
        return history
    seconds = {name: taken.seconds for name, taken in times.passes.items()}
    if SPECIALISE in seconds:
        seconds |= dict.fromkeys(PHASES, seconds[SPECIALISE])
    return _timed(history, {**times.stages, **seconds})


def _timed(history: History, seconds: dict[str, float]) -> History:
    return replace(
        history,
        steps=tuple(replace(step, seconds=seconds.get(step.name)) for step in history.steps),
        plans=tuple(
            replace(plan, seconds=seconds.get(LOWER + plan.phase)) for plan in history.plans
        ),
    )

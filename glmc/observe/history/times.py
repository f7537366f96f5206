"""Seconds of the steps of a history, which are kept apart from it: they differ from run to run."""

from __future__ import annotations

from dataclasses import replace

from glmc.artifact.times import Times
from glmc.observe.history.record import History

_CAPTURE = "capture"


def without_times(history: History) -> History:
    """The history of which the same input makes the same."""
    return replace(history, steps=tuple(replace(step, seconds=None) for step in history.steps))


def with_times(history: History, times: Times | None) -> History:
    """The history with the seconds that were recorded of its steps."""
    if times is None:
        return history
    seconds = {name: taken.seconds for name, taken in times.passes.items()}
    if _CAPTURE in times.stages:
        seconds[_CAPTURE] = times.stages[_CAPTURE]
    return replace(
        history,
        steps=tuple(replace(step, seconds=seconds.get(step.name)) for step in history.steps),
    )

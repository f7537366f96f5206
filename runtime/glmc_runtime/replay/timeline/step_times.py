"""Whoever times the steps of a machine, from a beginning to an end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from glmc_runtime.errors import RequestError
from glmc_runtime.replay.timeline.records import Recording


class StepTimes(Protocol):
    """Of one process or of ranks in others."""

    def begin(self) -> None:
        """Time all steps from now on. Raises :class:`RequestError` where they are timed already."""
        ...

    def end(self) -> Sequence[Recording]:
        """No longer; what was timed, of each rank."""
        ...


def timed_already() -> RequestError:
    return RequestError(
        "a timeline of these steps is being written",
        remedy="end one timeline before the next",
    )

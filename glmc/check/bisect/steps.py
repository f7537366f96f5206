"""The steps of a bisection: how many there are, and which one it is at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from glmc.check.verify.replay import NAME as REPLAYED_PLAN
from glmc.job import Job
from glmc.observe.dump.stages import step_names

LOWERING = "lowering"
EACH_CALL = "each kernel call"


@dataclass(frozen=True)
class Step:
    """Step ``number`` of ``total``: a pass or a phase, or what is made of the last of them, in a
    dtype."""

    number: int
    total: int
    dtype: str
    name: str

    def __str__(self) -> str:
        width = len(str(self.total))
        return f"step {self.number:>{width}} of {self.total}  {self.dtype:<9} {self.name:<18}"


Tell = Callable[[Step, str], None]
"""Hears a step and its verdict, as soon as it is known."""


class Steps:
    """Counts the steps that are told. What each of ``jobs`` compiles is proved; a plan is then made
    of the last, and replayed where ``replayed``."""

    def __init__(self, jobs: Sequence[Job], replayed: bool, tell: Tell) -> None:
        self._names = list(_names(jobs, replayed))
        self._tell = tell
        self._number = 0

    @property
    def names(self) -> set[str]:
        return {name for _, name in self._names}

    def done(self, dtype: str, name: str, text: str) -> None:
        """Tell a step. One that the list does not have is numbered as the one that is due."""
        if (dtype, name) in self._names:
            self._number = self._names.index((dtype, name)) + 1
        self._tell(Step(self._number, len(self._names), dtype, name), text)


def _names(jobs: Sequence[Job], replayed: bool) -> Iterator[tuple[str, str]]:
    for each in jobs:
        names = step_names(tuple(body.name for body in each.passes))[1:]
        yield from ((str(each.options.dtype), name) for name in names)
    own = str(jobs[-1].options.dtype)
    yield own, LOWERING
    if replayed:
        yield "float32", EACH_CALL
        yield own, REPLAYED_PLAN

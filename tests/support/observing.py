"""An observer of steps alone, made of a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from glmc.ir.program import Program
from glmc.pipeline.events import Event, StepDone


@dataclass(frozen=True)
class Steps:
    """``seen`` is called with the name of each step and the program that it has left."""

    seen: Callable[[str, Program], object]

    def observe(self, event: Event) -> None:
        if isinstance(event, StepDone):
            self.seen(event.name, event.program)

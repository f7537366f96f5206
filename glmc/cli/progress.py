"""The bars of a compile: one for its stages, one for the weights that are written."""

from __future__ import annotations

from rich.progress import Progress, TaskID

from glmc.compiler import STAGES
from glmc.pipeline.events import Event, StageBegun, StageEnded, StageProgress


class Bar:
    """Hears a compile and moves the bars."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def observe(self, event: Event) -> None:
        match event:
            case StageBegun(name) if name in STAGES:
                self._show("compiling", STAGES.index(name), len(STAGES))
            case StageEnded(name) if name in STAGES:
                self._show("compiling", STAGES.index(name) + 1, len(STAGES))
            case StageProgress(_, done, total):
                self._show("writing weights", done, total)

    def _show(self, kind: str, done: int, total: int) -> None:
        if kind not in self._tasks:
            self._tasks[kind] = self._progress.add_task(kind, total=total)
        self._progress.update(self._tasks[kind], completed=done, total=total)

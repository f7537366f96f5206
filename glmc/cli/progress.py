"""How far a compile is, on stderr: bars on a terminal, a line for each stage elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.table import Column
from rich.text import Text

from glmc.cli.stages import stage_line
from glmc.compiler import STAGES, WEIGHTS
from glmc.config import FROM_ENGINE
from glmc.job import Job
from glmc.observe.dump.stages import PHASES, step_names
from glmc.observe.events import JobBegun, PlanMade, WeightsPacked
from glmc.passes import specialise
from glmc.pipeline.events import (
    NOBODY,
    Event,
    Observer,
    PassBegun,
    StageBegun,
    StageEnded,
    StepDone,
)
from glmc.range_check.decide import STAGES as DECIDING
from glmc_runtime.command.units import bytes_text, seconds_text

PASSES = "passes"


@contextmanager
def shown_progress(*, silent: bool, verify: bool) -> Iterator[Observer]:
    """The observer that shows a compile."""
    if silent:
        yield NOBODY
    elif not sys.stderr.isatty():
        yield StageLines()
    else:
        with bars_on(Console(stderr=True)) as progress:
            yield Bars(progress, verify)


def bars_on(console: Console) -> Progress:
    """A row of 80 columns or less for each bar: only the bar itself gives way, for what a terminal
    wraps is not erased with the next row."""
    columns = (TextColumn("{task.description:<28}"), BarColumn(), Amount(Column(no_wrap=True)))
    return Progress(*columns, console=console, transient=True)


class StageLines:
    """A line when a stage begins, with the time on the clock: a log that ends shows where."""

    def __init__(self) -> None:
        self._words: dict[str, str] = {}

    def observe(self, event: Event) -> None:
        match event:
            case JobBegun(job):
                self._words["capture"] = f"capture of {job.source.shape.layers} layers"
                self._words[PASSES] = f"{len(pass_names(job))} passes"
            case PlanMade(compiled):
                weights = compiled.weights.values()
                size = bytes_text(sum(weight.bytes for weight in weights))
                packing = f"packing of {len(weights):,} tensors, {size}"
                others = {"none": "writing, without weights", FROM_ENGINE: "writing, with recipes"}
                self._words[WEIGHTS] = others.get(compiled.job.options.weights, packing)
            case StageBegun(name):
                stage_line(self._words.get(name, name))


class Bars:
    """Two bars: the steps up to a plan, named, and the weights. With ``verify`` a step is proved
    after it was done."""

    def __init__(self, progress: Progress, verify: bool) -> None:
        self._progress, self._verify = progress, verify
        self._steps = progress.add_task("reading", total=None)
        self._weights: TaskID | None = None
        self._passes: list[str] = []

    def observe(self, event: Event) -> None:
        match event:
            case JobBegun(job):
                self._passes = pass_names(job)
                total = len(STAGES) - 1 + len(self._passes)
                self._name("proof: a compile in float32" if self._verify else "reading")
                self._progress.update(self._steps, total=total)
            case StageBegun(name) if name in (*STAGES, *DECIDING) and name != PASSES:
                self._name(name)
            case PassBegun(name):
                number = self._passes.index(name) + 1
                self._name(f"pass {number} of {len(self._passes)} {name}")
            case StepDone(name):
                self._step_done(name)
            case StageEnded(name) if name in STAGES and name != PASSES:
                self._progress.advance(self._steps)
            case PlanMade() if self._verify:
                self._name("proof: the plan is replayed")
            case StageBegun(name) if name == WEIGHTS:
                self._name("writing")
            case WeightsPacked(at):
                self._packed(f"tensor {at.number:,} of {at.count:,}", at.done, at.total)

    def _name(self, text: str) -> None:
        self._progress.update(self._steps, description=text)

    def _step_done(self, name: str) -> None:
        if self._verify:
            self._name(f"proof of {name}")
        if name in self._passes or name == specialise.PHASE_NAMES[-1]:
            self._progress.advance(self._steps)

    def _packed(self, text: str, done: int, total: int) -> None:
        if self._weights is None:
            self._weights = self._progress.add_task(text, total=total, bytes=True)
        self._progress.update(self._weights, description=text, completed=done)


class Amount(ProgressColumn):
    """Bytes, bytes a second and the time left; of what is not bytes the steps and the time."""

    def render(self, task: Task) -> Text:
        if not task.fields.get("bytes"):
            steps = [] if task.total is None else [f"{task.completed:.0f} of {task.total:.0f}"]
            return Text(", ".join((*steps, seconds_text(task.elapsed or 0.0))))
        words = [bytes_text(task.completed)]
        if task.speed:
            words.append(f"{bytes_text(task.speed)}/s")
        if task.time_remaining is not None:
            words.append(f"{seconds_text(task.time_remaining)} left")
        return Text(", ".join(words))


def pass_names(job: Job) -> list[str]:
    """What runs between capture and lowering, in order."""
    names = step_names(tuple(each.name for each in job.passes))
    return [*(name for name in names[1:] if name not in PHASES), specialise.NAME]

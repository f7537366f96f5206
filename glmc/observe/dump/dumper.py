"""Watches a compile and writes what it is asked for; see docs/debugging.md."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from glmc.artifact.inputs import NAME as INPUTS
from glmc.artifact.inputs import Inputs, inputs_json
from glmc.compiled import Compiled
from glmc.errors import GlmcError, MatchCountError
from glmc.ir.program import Program
from glmc.observe.dump.blocks import Block, blocks
from glmc.observe.dump.folder import TIMES, VERDICTS, check_folder, clean_folder, write_file
from glmc.observe.dump.options import DumpOptions
from glmc.observe.dump.plan import plan_record, plan_text
from glmc.observe.dump.records import to_json
from glmc.observe.dump.stages import PHASES, Step, following, plan_step, step
from glmc.observe.dump.step_files import Files, Snapshot, files_of
from glmc.observe.dump.values import Values
from glmc.observe.events import JobBegun, Planned
from glmc.observe.history.encode import NAME as HISTORY
from glmc.observe.history.encode import history_to_json
from glmc.observe.history.record import History
from glmc.observe.history.times import without_times
from glmc.observe.history.verdicts import without_verdicts
from glmc.observe.page.artifact import facts_of_compile
from glmc.observe.page.render import PAGE, page
from glmc.passes import specialise
from glmc.pipeline.events import Event, StageBegun, StepDone
from glmc.pipeline.records import PassRecord

_LOWERING = "lower "


@dataclass
class Dumper:
    """Hears a compile, inside ``with``.

    When something raises before there is a plan, the program is written as it then stands, and a
    note on the error names the file. ``verdicts`` of a verifier, by pass, are written where there
    are any; ``remarks`` say what could not be written and why. Raises PackError for a folder that
    holds anything but an earlier dump.
    """

    options: DumpOptions
    verdicts: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    _programs: dict[str, Program] = field(default_factory=dict)
    _last: str = ""  # the last step that was done
    _cleaned: bool = False
    _stage: str = ""  # the stage that has begun, until there is a plan
    _planned: bool = False
    _lines: list[Sequence[str]] = field(default_factory=list)
    _inputs: Inputs | None = None
    _times: dict[str, dict[str, float]] = field(default_factory=lambda: {"compile": {}, "dump": {}})

    def __post_init__(self) -> None:
        if self.options.root is not None:
            check_folder(self.options.root)

    def __enter__(self) -> Dumper:
        if self.options.directory is None:
            self._clean()
        return self

    def _clean(self) -> None:
        """Remove an earlier dump, once: not before there is something to put in its place."""
        if self.options.root is not None and not self._cleaned:
            clean_folder(self.options.root)
        self._cleaned = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and self._stage and self.options.root is not None:
            self._clean()
            error.add_note(self._failed(error, self.options.root))

    def observe(self, event: Event) -> None:
        """Write what is asked for."""
        match event:
            case JobBegun(_, inputs):
                self._inputs = inputs
            case StageBegun(name) if not self._planned:
                self._stage = name
            case StepDone(name, _, program, record):
                self._step_done(name, program, record)
            case Planned(compiled, history):
                self._stage, self._planned = "", True
                self._plan_made(compiled, history)

    def _step_done(self, name: str, program: Program, record: PassRecord | None) -> None:
        """Write what is asked for of the program that the step ``name`` has left."""
        self._last = name
        self._programs[name] = program
        options = self.options
        if options.directory is None:
            return
        self._clean()
        started = time.perf_counter()
        snapshot = Snapshot(
            step(name, options.passes),
            program,
            values := Values(program),
            blocks(program, values, fold=not options.full),
            record,
        )
        changed = self._changes(snapshot.blocks)
        if self._after(name) and (changed or not options.changed):
            self._put(options.directory, files_of(snapshot, options, self.remarks))
        for later in following(name, options.passes):
            if _called(later) & set(options.before):
                here = step(later, options.passes)
                before = Snapshot(here, program, values, snapshot.blocks, suffix=".before")
                self._put(options.directory, files_of(before, options, self.remarks))
        if record is not None:
            self._times["compile"][snapshot.label] = record.seconds
        self._times["dump"][snapshot.label] = time.perf_counter() - started

    def _plan_made(self, compiled: Compiled, history: History | None) -> None:
        """Write the kernel calls of both phases, the page, the verdicts and the times."""
        folder, fold = self.options.directory, not self.options.full
        if folder is None:
            return
        files: Files = {}
        model, target = compiled.job.source.shape.name, compiled.job.target.name
        for key, plan in compiled.plans.items():
            if not self.options.all and "lower" not in self.options.after:
                continue
            label = plan_step(key.phase, self.options.passes).label
            program = self._programs.get(key.phase)
            title = f"{label}: {model}, {key} for {target}"
            facts = {"step": label, "stage": "lower", "model": model}
            files[f"{label}.txt"] = plan_text([title], plan, program, fold)
            facts["target"] = target
            files[f"{label}.json"] = plan_record(facts, plan, program, fold)
        if self.options.all and history is not None:
            started = time.perf_counter()
            files |= self._compile_files(history)
            files[PAGE] = page(without_times(history), facts_of_compile(compiled))
            self._times["dump"]["page"] = time.perf_counter() - started
        self._times["compile"].update(compiled.report.seconds)
        self._put(folder, {**files, **self._proved(), TIMES: to_json(self._times)})

    def _compile_files(self, history: History) -> Files:
        """What ``glmc diff`` compares; verdicts and times are elsewhere."""
        text = json.dumps(history_to_json(without_verdicts(history)), ensure_ascii=False)
        files: Files = {HISTORY: f"{text}\n"}
        if self._inputs is not None:
            files[INPUTS] = to_json(inputs_json(self._inputs))
        return files

    def _proved(self) -> Files:
        return {VERDICTS: to_json(self.verdicts)} if self.verdicts else {}

    def _after(self, name: str) -> bool:
        return self.options.all or bool(_called(name) & set(self.options.after))

    def _changes(self, made: Sequence[Block]) -> bool:
        """Whether the program reads another way than after the step before."""
        lines: list[Sequence[str]] = [(block.name, str(block.like), *block.lines) for block in made]
        changed, self._lines = lines != self._lines, lines
        return changed

    def _failed(self, error: Exception, folder: Path) -> str:
        """Write the program as it stands; returns the note for the error."""
        phase = self._stage.removeprefix(_LOWERING)
        if not self._last:
            return f"  dump:     none: {self._stage} raised before there was a graph"
        name = phase if phase in PHASES else self._last
        passes = self.options.passes
        if phase in PHASES:
            here = plan_step(phase, passes)
        elif isinstance(error, MatchCountError):
            here = Step(step(self._last, passes).number, "match", "counts")
        else:
            here = step(next(iter(following(self._last, passes)), self._last), passes)
        program = self._programs[name]
        values = Values(program)
        made = blocks(program, values, fold=not self.options.full)
        snapshot = Snapshot(here, program, values, made, suffix=".failed")
        try:
            files = files_of(snapshot, self.options, self.remarks)
            self._put(folder, {**files, **self._proved()})
        except GlmcError as trouble:
            return f"  dump:     none: {trouble.message}"
        return f"  dump:     {folder / next(iter(files))}"

    def _put(self, folder: Path, files: Files) -> None:
        for name, data in files.items():
            write_file(folder, name, data)


def _called(name: str) -> set[str]:
    """The names that mean a step: its own, and for a phase the pass that makes both."""
    return {name, specialise.NAME} if name in PHASES else {name}

"""A compile from end to end: a checkpoint or preset in, an artifact directory out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from glmc.artifact.collectives import collective_files
from glmc.artifact.destination import check_destination
from glmc.artifact.inputs import (
    ReadInputs,
    inputs_json,
    inputs_of_model,
    read_inputs,
    require_unchanged,
)
from glmc.artifact.times import times_json, times_of, without_times
from glmc.artifact.writer import write_artifact
from glmc.capture.export import capture
from glmc.capture.routers import store_routers
from glmc.compiled import Compiled, FrontEnd, Fused, manifest_parts
from glmc.config import FROM_CHECKPOINT, CompileOptions
from glmc.errors import InternalError, LoweringError
from glmc.garbage import rare_collections
from glmc.ir.program import Program
from glmc.job import READING, Job, read_job
from glmc.lowering.lower import Lowered, lower
from glmc.observe.events import JobBegun, PlanMade, Planned, WeightsPacked
from glmc.observe.history.collect import HistoryCollector
from glmc.observe.history.encode import history_to_json
from glmc.observe.history.record import History
from glmc.observe.logged import Logged
from glmc.out_of_memory import memory_errors
from glmc.passes import specialise
from glmc.pipeline import runner
from glmc.pipeline.events import (
    NOBODY,
    CurrentStage,
    Observer,
    Observers,
    StepDone,
    stage,
)
from glmc.pipeline.expectations import explain_unfused, fusion_counts, require_matches
from glmc.pipeline.records import PassRecord, Phases
from glmc.range_check.cost import Rates, no_rates
from glmc.range_check.decide import decide_dtype
from glmc.report import Report, build_report, eager_operations
from glmc.tokenizer import TokenizerFiles, tokenizer_files
from glmc.weights.checkpoint import Checkpoint
from glmc.weights.source import WeightSource
from glmc_runtime.format.phases import PhaseKey

STAGES = ("capture", "passes", *(f"lower {name}" for name in specialise.PHASE_NAMES))
"""What a plan takes, in order, as events name it."""
WEIGHTS = "weights"


def compile_model(
    model: str | Path,
    output: str | Path,
    options: CompileOptions | None = None,
    rates: Callable[[Job], Rates | None] = no_rates,
) -> Report:
    """Compile ``model`` (a preset's name or a checkpoint directory) into ``output``; ``rates`` are
    the numbers that a dtype is told to cost by where it has to be decided.

    Raises a GlmcError of the stage that failed; nothing is left at ``output`` then.
    """
    options = options or CompileOptions()
    inputs = inputs_of_model(model, options)
    job = read_job(model, options)
    if job.undecided:
        check_destination(Path(output), options.force)  # before weights are read
    return compile_job(decide_dtype(job, rates=rates(job)), output, inputs=inputs)


def compile_job(
    job: Job,
    output: str | Path,
    observer: Observer = NOBODY,
    inputs: ReadInputs | None = None,
) -> Report:
    """Compile a job into ``output``; see :func:`compile_model`. ``observer`` hears of it.

    ``inputs`` were read before the job was: an edit in between is noticed then. Raises
    CheckpointError when they have changed before the artifact is whole.
    """
    current = CurrentStage(READING)
    with memory_errors(lambda: current.name), rare_collections():
        return _compile(job, Path(output), Observers(current, Logged(), observer), inputs)


def _compile(job: Job, output: Path, observer: Observer, inputs: ReadInputs | None) -> Report:
    # What is wrong with a path, a table or a checkpoint is known before the work begins.
    check_destination(output, job.options.force)
    collective_files(job.target.name, job.lowering, job.options.collectives)
    weights = job.weights
    tokenizer = tokenizer_files(job.source.directory, job.source.config)
    inputs = inputs or read_inputs(job.source.directory, job.source.name, job.options)
    observer.observe(JobBegun(job, inputs.inputs))
    collector = HistoryCollector(job.passes)
    compiled = compile_plan(job, Observers(collector, observer))
    if isinstance(weights, Checkpoint):
        compiled = replace(compiled, report=compiled.report.noted(*weights.remarks))
    made = PlanMade(compiled, {})
    observer.observe(made)
    if made.verdicts:
        compiled = replace(compiled, report=compiled.report.verified(made.verdicts))
    history = collector.planned(compiled, manifest_parts(compiled).versions, made.verdicts)
    observer.observe(Planned(compiled, history))
    return write_compiled(
        compiled, output, observer, tokenizer=tokenizer, history=history, inputs=inputs
    )


def write_compiled(
    compiled: Compiled,
    output: Path,
    observer: Observer = NOBODY,
    weights: WeightSource | None = None,
    tokenizer: TokenizerFiles | None = None,
    history: History | None = None,
    inputs: ReadInputs | None = None,
) -> Report:
    """Pack the weights and write the artifact; returns the report with the time that took.

    ``weights`` are taken in place of the job's, ``tokenizer`` in place of what the checkpoint has.
    """
    job, report = compiled.job, compiled.report
    weights = weights or job.weights
    tokenizer = tokenizer or tokenizer_files(job.source.directory, job.source.config)
    report = replace(report, remarks=(*report.remarks, *tokenizer.remarks))
    made_at_load = job.options.weights == FROM_CHECKPOINT
    seconds: dict[str, float] = {}
    started = time.perf_counter()

    def times() -> dict[str, Any]:
        timed = report.timed("write", time.perf_counter() - started)
        return times_json(times_of(timed.to_json(), None if inputs is None else inputs.modified))

    def check() -> None:
        if inputs is not None:
            require_unchanged(inputs, job.source.directory, job.options)

    with stage(observer, WEIGHTS, seconds):
        write_artifact(
            output,
            parts=manifest_parts(compiled),
            plans=compiled.plans,
            weights=list(compiled.weights.values()),
            source=weights,
            checkpoint=weights if isinstance(weights, Checkpoint) and made_at_load else None,
            tokenizer=tokenizer.files,
            tables=collective_files(job.target.name, job.lowering, job.options.collectives),
            report=without_times(report.to_json()),
            history=None if history is None else history_to_json(history),
            values=compiled.values,
            inputs=None if inputs is None else inputs_json(inputs.inputs),
            times=times,
            check=check,
            force=job.options.force,
            progress=lambda progress: observer.observe(WeightsPacked(progress)),
        )
    return report.timed("write", seconds[WEIGHTS])


def compile_plan(job: Job, observer: Observer = NOBODY) -> Compiled:
    """Everything but the weights: capture, passes, lowering, plan and report."""
    job.require_supported()  # before the work begins
    with rare_collections():
        return back_end(front_end(job, observer), job, observer)


def front_end(job: Job, observer: Observer = NOBODY) -> FrontEnd:
    """Capture and passes; no target is asked.

    Raises CaptureError, MatchCountError, ConfigError for heads that are not the config's, and
    LoweringError where ``allow_missing`` lets a fusion be lost that has no unfused implementation.
    """
    seconds: dict[str, float] = {}
    with stage(observer, "capture", seconds):
        program, eager = _captured(job)
    observer.observe(StepDone("capture", "capture", program))
    with stage(observer, "passes", seconds):
        phases = _paged(job, program, _fused(job, program, observer), observer)
    return FrontEnd(job, phases, eager, seconds)


def fused(job: Job) -> Fused:
    """Capture and the passes that fuse, for jobs that differ in how they deal the model to ranks.
    Raises as :func:`front_end`."""
    program, eager = _captured(job)
    return Fused(program, _fused(job, program), eager)


def dealt(model: Fused, job: Job) -> FrontEnd:
    """The front end of ``job``, whose model was fused before; ``model`` is not changed. Raises as
    :func:`front_end`."""
    return FrontEnd(job, _paged(job, model.program.copy(), model.records), model.eager, {})


def _captured(job: Job) -> tuple[Program, dict[str, Any]]:
    program = capture(job.source.config, job.source.shape, job.dtype, job.capture)
    store_routers(program, job.router_dtype)
    return program, _eager_operations(job, program)


def _fused(job: Job, program: Program, observer: Observer = NOBODY) -> tuple[PassRecord, ...]:
    fused = runner.fuse(program, observer, job.selection.passes)
    if not job.options.allow_missing:
        require_matches(fused, fusion_counts(job.expected_matches))
    return fused


def _paged(
    job: Job, program: Program, fused: tuple[PassRecord, ...], observer: Observer = NOBODY
) -> Phases:
    expected = job.expected_matches
    try:
        phases = runner.to_paged(program, job.options.block_size, fused, observer, job.dealt)
    except LoweringError as error:
        raise explain_unfused(error, fused, expected, job.selection.off) from error
    if not job.options.allow_missing:
        require_matches(phases.records, expected)
    return phases


def _eager_operations(job: Job, program: Program) -> dict[str, Any]:
    """Counted in eager code: a marker hides what it stands for, so the model is traced again."""
    if job.capture.marked:
        plain = replace(job.capture, marked=False)
        program = capture(job.source.config, job.source.shape, job.dtype, plain)
    return eager_operations(program.graph)


def back_end(front: FrontEnd, job: Job, observer: Observer = NOBODY) -> Compiled:
    """Lowering, plan and report for the target of ``job``. ``front`` is not changed.

    Raises LoweringError and AbiError, and InternalError when ``job`` needs another front end.
    """
    if job.front != front.job.front:
        raise InternalError("a front end was made with other options", found=str(job.front))
    job.require_supported()
    phases, seconds = front.phases, dict(front.seconds)
    lowered: dict[PhaseKey, Lowered] = {}
    merges: tuple[PassRecord, ...] = ()
    for key, program in phases.programs.items():
        with stage(observer, f"lower {key}", seconds):
            try:
                merged, merges = runner.merge(program, job.target.rules)
                lowered[key] = lower(merged, job.target, job.lowering)
            except LoweringError as error:
                expected, off = job.expected_matches, job.selection.off
                raise explain_unfused(error, phases.records, expected, off) from error
    records = (*phases.records, *merges)  # as they are in the last phase
    report = build_report(job, records, lowered, front.eager, seconds)
    return Compiled(job, lowered, report)

"""The whole road: a checkpoint or preset in, an artifact directory out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from glmc.artifact.writer import check_destination, write_artifact
from glmc.capture.export import capture
from glmc.capture.routers import store_routers
from glmc.compiled import Compiled, FrontEnd, Progress, manifest_parts
from glmc.config import CompileOptions
from glmc.errors import InternalError, LoweringError
from glmc.ir.program import Program
from glmc.job import READING, Job, read_job
from glmc.lowering.lower import lower
from glmc.observe.history.collect import HistoryCollector
from glmc.observe.history.encode import history_to_json
from glmc.observe.history.record import History
from glmc.out_of_memory import Stage, memory_errors
from glmc.pipeline import stages as pipeline
from glmc.report import Report, build_report, eager_operations
from glmc.tokenizer import TokenizerFiles, tokenizer_files
from glmc.weights.checkpoint import Checkpoint
from glmc.weights.source import WeightSource

Planned = Callable[[Compiled, History], None]


class Prover(Protocol):
    """Verifies a compile while it goes on; raises VerificationError. See glmc/verify."""

    def prepare(self) -> None:
        """What can be proved before the compile begins."""

    def watch(self, name: str, program: Program) -> None:
        """Called with the program after each pass, before anyone else sees it."""

    def planned(self, compiled: Compiled) -> Mapping[str, str]:
        """Called with the plan; the verdicts of all steps."""


def compile_model(
    model: str | Path, output: str | Path, options: CompileOptions | None = None
) -> Report:
    """Compile ``model`` (a preset's name or a checkpoint directory) into ``output``.

    Raises a GlmcError of the stage that failed; nothing is left at ``output`` then.
    """
    return compile_job(read_job(model, options or CompileOptions()), output)


def compile_job(
    job: Job,
    output: str | Path,
    progress: Progress = lambda stage, done, total: None,
    watch: pipeline.Watch = lambda name, program: None,
    planned: Planned = lambda compiled, history: None,
    prover: Prover | None = None,
) -> Report:
    """Compile a job into ``output``; see :func:`compile_model`.

    ``progress`` is told the stage and how far it is, ``watch`` sees the program after each pass
    and ``planned`` the plan and its history before weights are packed; ``prover`` is asked before
    both.
    """
    stage = Stage(READING, progress)
    with memory_errors(lambda: stage.name):
        return _compile(job, output, stage, watch, planned, prover)


def _compile(
    job: Job,
    output: str | Path,
    progress: Progress,
    watch: pipeline.Watch,
    planned: Planned,
    prover: Prover | None,
) -> Report:
    # A taken path and an incomplete checkpoint are known before the work begins, not after it.
    check_destination(Path(output), job.options.force)
    weights = job.weights
    tokenizer = tokenizer_files(job.source.directory, job.source.config)
    if prover is not None:
        prover.prepare()
        watch = _both(prover.watch, watch)
    collector = HistoryCollector(job.selection.passes)
    compiled = compile_plan(job, progress, _both(collector.watch, watch))
    if isinstance(weights, Checkpoint):
        compiled = replace(compiled, report=compiled.report.noted(*weights.remarks))
    verdicts: Mapping[str, str] = {}
    if prover is not None:
        verdicts = prover.planned(compiled)
        compiled = replace(compiled, report=compiled.report.verified(verdicts))
    history = collector.planned(compiled, manifest_parts(compiled).versions, verdicts)
    planned(compiled, history)
    return write_compiled(compiled, output, progress, tokenizer=tokenizer, history=history)


def _both(first: pipeline.Watch, second: pipeline.Watch) -> pipeline.Watch:
    """Call both, the second even when the first raises: it may write what went wrong."""

    def watch(name: str, program: Program) -> None:
        try:
            first(name, program)
        finally:
            second(name, program)

    return watch


def write_compiled(
    compiled: Compiled,
    output: str | Path,
    progress: Progress = lambda stage, done, total: None,
    weights: WeightSource | None = None,
    tokenizer: TokenizerFiles | None = None,
    history: History | None = None,
) -> Report:
    """Pack the weights and write the artifact; returns the report with the time that took.

    ``weights`` are taken in place of the job's, ``tokenizer`` in place of what the checkpoint has.
    """
    job, report = compiled.job, compiled.report
    weights = weights or job.weights
    tokenizer = tokenizer or tokenizer_files(job.source.directory, job.source.config)
    report = replace(report, remarks=(*report.remarks, *tokenizer.remarks))
    started = time.perf_counter()
    write_artifact(
        Path(output),
        parts=manifest_parts(compiled),
        phases=compiled.phases,
        weights=list(compiled.weights.values()),
        source=weights,
        tokenizer=tokenizer.files,
        report=report.to_json(),
        history=None if history is None else history_to_json(history),
        force=job.options.force,
        progress=lambda done, total: progress("weights", done, total),
    )
    return report.timed("write", time.perf_counter() - started)


def compile_plan(
    job: Job,
    progress: Progress = lambda stage, done, total: None,
    watch: pipeline.Watch = lambda name, program: None,
) -> Compiled:
    """Everything but the weights: capture, passes, lowering, plan and report."""
    job.require_supported()  # before the work begins
    return back_end(front_end(job, progress, watch), job, progress)


def front_end(
    job: Job,
    progress: Progress = lambda stage, done, total: None,
    watch: pipeline.Watch = lambda name, program: None,
) -> FrontEnd:
    """Capture and passes; no target is asked.

    Raises CaptureError, MatchCountError, ConfigError for heads that are not the config's, and
    LoweringError where ``allow_missing`` lets a fusion be lost that has no plain form.
    """
    progress("capture", 0, 4)
    start = time.perf_counter()
    program = capture(job.source.config, job.source.shape, job.dtype, job.capture)
    store_routers(program, job.router_dtype)
    eager = _eager_operations(job, program)
    captured = time.perf_counter()
    watch("capture", program)
    progress("passes", 1, 4)
    expected, strict = job.expected_matches, not job.options.allow_missing
    fused = pipeline.fuse(program, watch, job.selection.passes)
    if strict:
        pipeline.require_matches(fused, pipeline.before_paging(expected))
    try:
        phases = pipeline.page(program, job.options.block_size, fused, watch)
    except LoweringError as error:
        raise pipeline.no_plain_form(error, fused, expected, job.selection.off) from error
    if strict:
        pipeline.require_matches(phases.records, expected)
    seconds = {"capture": captured - start, "passes": time.perf_counter() - captured}
    return FrontEnd(job, phases, eager, seconds)


def _eager_operations(job: Job, program: Program) -> dict[str, Any]:
    """Counted in eager code: a marker hides what it stands for, so the model is traced again."""
    if job.capture.marked:
        plain = replace(job.capture, marked=False)
        program = capture(job.source.config, job.source.shape, job.dtype, plain)
    return eager_operations(program.graph)


def back_end(
    front: FrontEnd, job: Job, progress: Progress = lambda stage, done, total: None
) -> Compiled:
    """Lowering, plan and report for the target of ``job``. ``front`` is not changed.

    Raises LoweringError and AbiError, and InternalError when ``job`` needs another front end.
    """
    if job.front != front.job.front:
        raise InternalError("a front end was made with other options", found=str(job.front))
    job.require_supported()
    phases, lowered, seconds = front.phases, [], dict(front.seconds)
    merges: tuple[pipeline.PassRecord, ...] = ()
    for step, program in enumerate((phases.prefill, phases.decode), 2):
        progress(f"lower {program.phase}", step, 4)
        start = time.perf_counter()
        try:
            merged, merges = pipeline.merge(program, job.target.rules)
            lowered.append(lower(merged, job.target, job.lowering))
        except LoweringError as error:
            expected, off = job.expected_matches, job.selection.off
            raise pipeline.no_plain_form(error, phases.records, expected, off) from error
        seconds[f"lower {program.phase}"] = time.perf_counter() - start
    progress("lower decode", 4, 4)
    prefill, decode = lowered
    records = (*phases.records, *merges)  # as they are in decode
    report = build_report(job, records, prefill, decode, front.eager, seconds)
    return Compiled(job, prefill, decode, report)

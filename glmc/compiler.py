"""The whole road: a checkpoint or preset in, an artifact directory out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from glmc.artifact.writer import check_destination, write_artifact
from glmc.backends import target_by_name
from glmc.capture.export import capture
from glmc.capture.model import CaptureOptions
from glmc.capture.routers import ROUTER, router_dtype, store_routers
from glmc.compiled import Compiled, FrontEnd, Progress, manifest_parts
from glmc.config import DEFAULT_PROFILE, CompileOptions
from glmc.errors import InternalError, LoweringError, UsageError
from glmc.ir.program import Program
from glmc.lowering.lower import lower
from glmc.lowering.target import LoweringOptions, Target
from glmc.observe.history.collect import HistoryCollector
from glmc.observe.history.encode import history_to_json
from glmc.observe.history.record import History
from glmc.out_of_memory import Stage, memory_errors
from glmc.pipeline import stages as pipeline
from glmc.pipeline.extensions import with_rules
from glmc.pipeline.selection import Selection
from glmc.presets.catalog import ModelSource, load_config
from glmc.report import Report, build_report, eager_operations
from glmc.tokenizer import TokenizerFiles, tokenizer_files
from glmc.weights.checkpoint import Checkpoint, open_checkpoint
from glmc.weights.files import read_files
from glmc.weights.random import RandomWeights
from glmc.weights.source import WeightSource

LONGEST_DEFAULT_CONTEXT = 8192

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
    model: str | Path,
    output: str | Path,
    options: CompileOptions | None = None,
    progress: Progress = lambda stage, done, total: None,
    watch: pipeline.Watch = lambda name, program: None,
    planned: Planned = lambda compiled, history: None,
    prover: Prover | None = None,
) -> Report:
    """Compile ``model`` (a preset's name or a checkpoint directory) into ``output``.

    ``progress`` is told the stage and how far it is, ``watch`` sees the program after each pass
    and ``planned`` the plan and its history before weights are packed; ``prover`` is asked before
    both.
    Raises a GlmcError of the stage that failed; nothing is left at ``output`` then.
    """
    stage = Stage("reading the checkpoint", progress)
    with memory_errors(lambda: stage.name):
        return _compile(model, output, options or CompileOptions(), stage, watch, planned, prover)


def _compile(
    model: str | Path,
    output: str | Path,
    options: CompileOptions,
    progress: Progress,
    watch: pipeline.Watch,
    planned: Planned,
    prover: Prover | None,
) -> Report:
    # A taken path and an incomplete checkpoint are known before the work begins, not after it.
    check_destination(Path(output), options.force)
    source = load_config(model, options.supplied)
    weights = _weight_source(source, options)
    tokenizer = tokenizer_files(source.directory, source.config)
    if prover is not None:
        prover.prepare()
        watch = _both(prover.watch, watch)
    collector = HistoryCollector(pipeline.chosen(options))
    compiled = compile_plan(model, options, progress, _both(collector.watch, watch))
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

    ``weights`` are taken in place of those that the options name, ``tokenizer`` in place of what
    the checkpoint has.
    """
    source, report = compiled.source, compiled.report
    weights = weights or _weight_source(source, compiled.options)
    tokenizer = tokenizer or tokenizer_files(source.directory, source.config)
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
        force=compiled.options.force,
        progress=lambda done, total: progress("weights", done, total),
    )
    return report.timed("write", time.perf_counter() - started)


def compile_plan(
    model: str | Path,
    options: CompileOptions,
    progress: Progress = lambda stage, done, total: None,
    watch: pipeline.Watch = lambda name, program: None,
) -> Compiled:
    """Everything but the weights: capture, passes, lowering, plan and report."""
    source = load_config(model, options.supplied)
    # What the target refuses is refused before the work begins.
    _target(source, options, pipeline.selection(options))
    return back_end(front_end(source, options, progress, watch), options, progress)


def front_end(
    source: ModelSource,
    options: CompileOptions,
    progress: Progress = lambda stage, done, total: None,
    watch: pipeline.Watch = lambda name, program: None,
) -> FrontEnd:
    """Capture and passes; no target is asked.

    Raises CaptureError, MatchCountError, ConfigError for heads that are not the config's, and
    LoweringError where ``allow_missing`` lets a fusion be lost that has no plain form.
    """
    dtype, how = _dtype(source, options), _capture_options(options)
    selection = pipeline.selection(options)
    progress("capture", 0, 4)
    start = time.perf_counter()
    program = capture(source.config, source.shape, dtype, how)
    store_routers(program, _router_dtype(source, options))
    program.notes["eager_operations"] = _eager_operations(source, dtype, how, program)
    captured = time.perf_counter()
    watch("capture", program)
    progress("passes", 1, 4)
    expected = pipeline.still_expected(source.expected_matches, selection)
    fused = pipeline.fuse(program, watch, selection.passes)
    if not options.allow_missing:
        pipeline.require_matches(fused, pipeline.before_paging(expected))
    try:
        phases = pipeline.page(program, options.block_size, fused, watch)
    except LoweringError as error:
        raise pipeline.no_plain_form(error, fused, expected, selection.off) from error
    if not options.allow_missing:
        pipeline.require_matches(phases.records, expected)
    seconds = {"capture": captured - start, "passes": time.perf_counter() - captured}
    return FrontEnd(source, dtype, options.block_size, how, phases, seconds, selection)


def _eager_operations(
    source: ModelSource, dtype: torch.dtype, how: CaptureOptions, program: Program
) -> dict[str, Any]:
    """Counted in eager code: a marker hides what it stands for, so the model is traced again."""
    if how.marked:
        program = capture(source.config, source.shape, dtype, replace(how, marked=False))
    return eager_operations(program.graph)


def back_end(
    front: FrontEnd,
    options: CompileOptions,
    progress: Progress = lambda stage, done, total: None,
) -> Compiled:
    """Lowering, plan and report for one target. ``front`` is not changed.

    Raises LoweringError and AbiError, and InternalError when ``options`` are of another front end.
    """
    source, seconds = front.source, dict(front.seconds)
    selection = pipeline.selection(options)
    wanted = (_dtype(source, options), options.block_size, _capture_options(options), selection)
    if wanted != (front.dtype, front.block_size, front.how, front.selection):
        raise InternalError("a front end was made with other options", found=str(wanted))
    target, lowering = _target(source, options, selection)
    phases, lowered = front.phases, []
    merges: tuple[pipeline.PassRecord, ...] = ()
    for step, program in enumerate((phases.prefill, phases.decode), 2):
        progress(f"lower {program.phase}", step, 4)
        start = time.perf_counter()
        try:
            merged, merges = pipeline.merge(program, target.rules)
            lowered.append(lower(merged, target, lowering))
        except LoweringError as error:
            expected = pipeline.still_expected(source.expected_matches, selection)
            off = selection.off
            raise pipeline.no_plain_form(error, phases.records, expected, off) from error
        seconds[f"lower {program.phase}"] = time.perf_counter() - start
    progress("lower decode", 4, 4)
    prefill, decode = lowered
    phases = replace(phases, records=(*phases.records, *merges))  # as they are in decode
    report = build_report(source, options, lowering, phases, prefill, decode, seconds)
    report = replace(
        report,
        expected_matches=pipeline.still_expected(source.expected_matches, selection),
        remarks=(*selection.remarks(), *report.remarks),
    )
    return Compiled(source, options, lowering, target, prefill, decode, report)


def _router_dtype(source: ModelSource, options: CompileOptions) -> torch.dtype:
    """From the headers alone: a plan can also be made where there is only config.json."""
    dtype, folder = _dtype(source, options), source.directory
    if options.weights != "checkpoint" or folder is None or not any(folder.glob("*.safetensors")):
        return dtype
    tensors = read_files(folder).tensors.items()
    return router_dtype((one.dtype for name, one in tensors if name.endswith(ROUTER)), dtype)


def _capture_options(options: CompileOptions) -> CaptureOptions:
    return CaptureOptions(
        options.capture_attention,
        options.capture_experts,
        options.marked,
        folded=not options.full_capture,
    )


def _dtype(source: ModelSource, options: CompileOptions) -> torch.dtype:
    return getattr(torch, options.dtype) if options.dtype else source.dtype


def _target(
    source: ModelSource, options: CompileOptions, selection: Selection
) -> tuple[Target, LoweringOptions]:
    """The target with the rules of added passes, and its options; raises for what the target is
    known to refuse."""
    target = with_rules(target_by_name(options.target), selection.added)
    lowering = _lowering_options(source, options)
    _check_dtype(target, lowering.dtype)
    target.check(lowering, source.shape)
    return target, lowering


def _lowering_options(source: ModelSource, options: CompileOptions) -> LoweringOptions:
    published = source.shape.maximum_positions
    context = options.max_context or min(published, LONGEST_DEFAULT_CONTEXT)
    if context > published:
        raise UsageError(
            "the model does not know positions that far",
            expected=f"at most {published}: max_position_embeddings of config.json, or as far as "
            "the factor of its rope reaches",
            found=f"--max-context {context}",
            remedy="choose a smaller --max-context, or switch YaRN on as the model card says",
        )
    profile = (options.abi_profile or DEFAULT_PROFILE) if options.target == "xpu" else None
    return LoweringOptions(
        dtype=_dtype(source, options),
        max_context=context,
        block_size=options.block_size,
        max_sequences=options.decode_buckets[-1],
        max_tokens=options.prefill_buckets[-1],
        abi_profile=profile,
    )


def _check_dtype(target: Target, dtype: torch.dtype) -> None:
    if dtype not in target.dtypes:
        known = ", ".join(str(item).removeprefix("torch.") for item in target.dtypes)
        raise LoweringError(
            f"{target.name} does not compute in {str(dtype).removeprefix('torch.')}",
            expected=known,
            found=str(dtype).removeprefix("torch."),
            remedy="choose another --dtype",
        )


def _weight_source(source: ModelSource, options: CompileOptions) -> WeightSource | None:
    if options.weights == "none":
        return None
    if options.weights == "random":
        return RandomWeights(source.fields, _dtype(source, options), options.seed)
    if source.directory is None:
        raise UsageError(
            f"'{source.name}' is a preset, which has no weights",
            expected="--no-weights, --random-weights or a checkpoint directory",
            remedy="add --no-weights to compile the plan alone",
        )
    return open_checkpoint(source.directory, source.fields)

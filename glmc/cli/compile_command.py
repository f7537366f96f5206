"""``glmc compile MODEL``: from a checkpoint or preset to an artifact, progress and a report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from glmc.artifact.destination import check_destination
from glmc.cli.compile_and_report import CompileRequest, compile_and_report
from glmc.cli.if_changed import is_up_to_date
from glmc.cli.names import require_names
from glmc.cli.options import (
    DUMP_GROUP,
    MODEL_GROUP,
    OUTPUT_GROUP,
    PLAN_GROUP,
    AbiProfile,
    CalibrationPrompt,
    Collectives,
    CompileDtype,
    ExpertParallel,
    Json,
    Model,
    PassesOff,
    PassesOn,
    Pipeline,
    RandomWeights,
    Seed,
    Target,
    TensorParallel,
    Weights,
    all_steps,
    complete,
    option,
)
from glmc.config import CompileOptions
from glmc.errors import UsageError
from glmc.pipeline.names import STEPS, require_passes
from glmc_runtime.command.request_files import text_of_file
from glmc_runtime.format.manifest import PROMISES


def compile_command(
    model: Model,
    target: Target = "cpu",
    dtype: CompileDtype = None,
    abi_profile: AbiProfile = None,
    no_weights: Annotated[
        bool, option("Compile everything but the weights.", MODEL_GROUP, "--no-weights")
    ] = False,
    random_weights: RandomWeights = False,
    weights: Weights = None,
    seed: Seed = 0,
    output: Annotated[
        Path | None,
        option("Artifact directory to write.", OUTPUT_GROUP, "--output", "-o", metavar="DIR"),
    ] = None,
    force: Annotated[
        bool, option("Replace an existing artifact.", OUTPUT_GROUP, "--force")
    ] = False,
    if_changed: Annotated[
        bool,
        option(
            "Do nothing if the artifact is up to date: same model, options, versions.",
            OUTPUT_GROUP,
            "--if-changed",
        ),
    ] = False,
    report: Annotated[
        bool, option("Also show passes and calls per layer.", OUTPUT_GROUP, "--report")
    ] = False,
    as_json: Json = False,
    max_context: Annotated[
        int | None,
        option("Longest sequence; default: the model's, at most 8192.", PLAN_GROUP, metavar="N"),
    ] = None,
    block_size: Annotated[
        int, option("Tokens per block of the KV cache.", PLAN_GROUP, metavar="N")
    ] = 128,
    decode_buckets: Annotated[
        str, option("Batch sizes that decode is planned for.", PLAN_GROUP, metavar="N,N")
    ] = "1,2,4,8,16,32",
    prefill_buckets: Annotated[
        str,
        option("Numbers of packed tokens that prefill is planned for.", PLAN_GROUP, metavar="N,N"),
    ] = "16,64,256,512",
    deterministic: Annotated[
        str | None,
        option(
            "Bits that don't depend on the batch; =ranks: nor on the number of ranks.",
            PLAN_GROUP,
            "--deterministic",
            metavar="[=ranks]",
            names=complete(lambda: PROMISES),
        ),
    ] = None,
    tensor_parallel: TensorParallel = 1,
    expert_parallel: ExpertParallel = False,
    collectives: Collectives = None,
    allow_missing: Annotated[
        bool, option("Go on when a fusion was lost.", PLAN_GROUP, "--allow-missing")
    ] = False,
    full_capture: Annotated[
        bool, option("Trace every layer, not one of each kind.", PLAN_GROUP, "--full-capture")
    ] = False,
    passes_off: PassesOff = None,
    passes_on: PassesOn = None,
    pipeline: Pipeline = None,
    calibration_prompt: CalibrationPrompt = None,
    verify: Annotated[
        bool, option("Prove each pass, and the plan, on real tensors.", DUMP_GROUP, "--verify")
    ] = False,
    dump: Annotated[
        Path | None,
        option("Folder for what each pass leaves: text, Python, JSON.", DUMP_GROUP, metavar="DIR"),
    ] = None,
    dump_before: Annotated[
        list[str] | None,
        option(
            "Dump only before this pass; repeatable.", DUMP_GROUP, metavar="PASS", names=all_steps
        ),
    ] = None,
    dump_after: Annotated[
        list[str] | None,
        option(
            "Dump only after this pass; repeatable.", DUMP_GROUP, metavar="PASS", names=all_steps
        ),
    ] = None,
    dump_changed: Annotated[
        bool, option("Leave out passes that changed nothing.", DUMP_GROUP, "--dump-changed")
    ] = False,
    dump_on_failure: Annotated[
        bool, option("Dump the program when a stage fails.", DUMP_GROUP, "--dump-on-failure")
    ] = False,
    dump_full: Annotated[
        bool, option("Dump every layer, not one of each kind.", DUMP_GROUP, "--dump-full")
    ] = False,
    dump_onnx: Annotated[
        bool, option("Also dump ONNX files, for Netron.", DUMP_GROUP, "--dump-onnx")
    ] = False,
    dump_picture: Annotated[
        int | None,
        option("Also draw this layer (DOT; SVG where Graphviz is).", DUMP_GROUP, metavar="N"),
    ] = None,
) -> None:
    """Compile a GLM-4.x model into an artifact that glmc-runtime replays."""
    options = CompileOptions(
        target=target,
        dtype=dtype,
        abi_profile=abi_profile,
        max_context=max_context,
        block_size=block_size,
        deterministic=deterministic,
        decode_buckets=numbers_of("--decode-buckets", decode_buckets),
        prefill_buckets=numbers_of("--prefill-buckets", prefill_buckets),
        weights=weights_of(weights, no_weights, random_weights),
        seed=seed,
        tensor_parallel=tensor_parallel,
        expert_parallel=expert_parallel,
        collectives=table_of_file(collectives),
        allow_missing=allow_missing,
        force=force,
        full_capture=full_capture,
        passes_on=tuple(passes_on or ()),
        passes_off=tuple(passes_off or ()),
        pipeline=None if pipeline is None else str(pipeline),
        calibration_prompt=prompt_of(calibration_prompt),
    )
    require_names(model, options)
    require_passes("--dump-before", dump_before or (), STEPS)
    require_passes("--dump-after", dump_after or (), STEPS)
    path = output or default_output(model, target)
    if if_changed:
        if verify or dump is not None:
            raise UsageError(
                "--if-changed may do nothing, and --verify and --dump ask for a compile",
                found="--if-changed with --verify or --dump",
                remedy="use --force in place of --if-changed",
            )
        if is_up_to_date(model, path, options, report=report, as_json=as_json):
            return
        options = replace(options, force=True)  # what is there is of this model
    check_destination(path, options.force)  # before what takes seconds to import
    request = CompileRequest(
        model,
        path,
        options,
        {
            "directory": dump,
            "before": tuple(dump_before or ()),
            "after": tuple(dump_after or ()),
            "changed": dump_changed,
            "on_failure": dump_on_failure,
            "failure_directory": default_output(model, target).with_suffix(".failure"),
            "full": dump_full,
            "onnx": dump_onnx,
            "picture": dump_picture,
        },
        verify=verify,
        report=report,
        as_json=as_json,
    )
    compile_and_report(request)


def default_output(model: str, target: str) -> Path:
    """Where an artifact goes unless said otherwise: beside us, named like the model."""
    name = Path(model).resolve().name  # '.' has no name of its own
    return Path(f"{name or 'model'}.{target}.glmc")


def prompt_of(text_or_file: str | None) -> str | None:
    """The text of --calibration-prompt: that of the file where there is one of this name."""
    if text_or_file is None or not is_file(text_or_file):
        return text_or_file
    return text_of_file("--calibration-prompt", text_or_file)


def table_of_file(path: Path | None) -> str | None:
    """The text of a table of collectives."""
    return None if path is None else text_of_file("--collectives", str(path))


def is_file(name: str) -> bool:
    """Whether a text is the name of a file; a long text is none."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def weights_of(named: str | None, none: bool, random: bool) -> str:
    """The weights that the flags ask for; raises :class:`UsageError` for two of them."""
    asked = {"--no-weights": none, "--random-weights": random, f"--weights {named}": named}
    flags = [flag for flag, given in asked.items() if given]
    if len(flags) > 1:
        raise UsageError(f"{' and '.join(flags)} exclude each other", remedy="drop one")
    return named or ("none" if none else "random" if random else "checkpoint")


def numbers_of(flag: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{flag} is no list of numbers",
            expected="ascending numbers",
            found=repr(text),
            remedy=f"{flag} 1,2,4",
        ) from error

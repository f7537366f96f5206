"""``glmc compile MODEL``: from a checkpoint or preset to an artifact, progress and a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from glmc.cli.clock import Timed, elapsed
from glmc.cli.if_changed import is_up_to_date
from glmc.cli.say import console, say
from glmc.cli.stages import importing, is_silent
from glmc.config import CompileOptions
from glmc.errors import UsageError
from glmc.pipeline.names import require_passes
from glmc.presets.names import require_model
from glmc_runtime.command.units import bytes_text


def compile_command(
    model: Annotated[str, typer.Argument(help="A checkpoint directory or a preset's name.")],
    target: Annotated[str, typer.Option(help="cpu, cuda, xpu or an installed one.")] = "cpu",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Artifact directory to write.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; default: the checkpoint's.")
    ] = None,
    abi_profile: Annotated[
        str | None, typer.Option(help="P-A, P-B or P-C: which vendor wheel will be called.")
    ] = None,
    no_weights: Annotated[
        bool, typer.Option("--no-weights", help="Compile everything but the weights.")
    ] = False,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Make random weights.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the random weights.")] = 0,
    max_context: Annotated[
        int | None, typer.Option(help="Longest sequence; default: the model's, at most 8192.")
    ] = None,
    block_size: Annotated[int, typer.Option(help="Tokens per block of the KV cache.")] = 128,
    decode_buckets: Annotated[
        str, typer.Option(help="Batch sizes that decode is planned for.")
    ] = "1,2,4,8,16,32",
    prefill_buckets: Annotated[
        str, typer.Option(help="Numbers of packed tokens that prefill is planned for.")
    ] = "16,64,256,512",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Go on when a fusion was lost.")
    ] = False,
    full_capture: Annotated[
        bool, typer.Option("--full-capture", help="Trace every layer, not one of each kind.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing artifact.")] = False,
    if_changed: Annotated[
        bool,
        typer.Option(
            "--if-changed",
            help="Do nothing if the artifact is up to date: same model, options, versions.",
        ),
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Also show passes and calls per layer.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Prove each pass, and the plan, on real tensors.")
    ] = False,
    passes_off: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave this pass out; repeatable. What nothing else computes, such as moe_gate, "
            "can't be left out."
        ),
    ] = None,
    passes_on: Annotated[
        list[str] | None,
        typer.Option(help="Also run this pass of an installed distribution; repeatable."),
    ] = None,
    pipeline: Annotated[
        Path | None, typer.Option(help="YAML file: which passes run, in which order.")
    ] = None,
    dump: Annotated[
        Path | None, typer.Option(help="Folder for what each pass leaves: text, Python, JSON.")
    ] = None,
    dump_before: Annotated[
        list[str] | None, typer.Option(help="Dump only before this pass; repeatable.")
    ] = None,
    dump_after: Annotated[
        list[str] | None, typer.Option(help="Dump only after this pass; repeatable.")
    ] = None,
    dump_changed: Annotated[
        bool, typer.Option("--dump-changed", help="Leave out passes that changed nothing.")
    ] = False,
    dump_on_failure: Annotated[
        bool,
        typer.Option("--dump-on-failure", help="Dump the program when a stage fails."),
    ] = False,
    dump_full: Annotated[
        bool, typer.Option("--dump-full", help="Dump every layer, not one of each kind.")
    ] = False,
    dump_onnx: Annotated[
        bool, typer.Option("--dump-onnx", help="Also dump ONNX files, for Netron.")
    ] = False,
    dump_picture: Annotated[
        int | None, typer.Option(help="Also draw this layer (DOT; SVG where Graphviz is).")
    ] = None,
) -> None:
    """Compile a GLM-4.x model into an artifact that glmc-runtime replays."""
    if no_weights and random_weights:
        raise UsageError("--no-weights and --random-weights exclude each other", remedy="drop one")
    options = CompileOptions(
        target=target,
        dtype=dtype,
        abi_profile=abi_profile,
        max_context=max_context,
        block_size=block_size,
        decode_buckets=_numbers("--decode-buckets", decode_buckets),
        prefill_buckets=_numbers("--prefill-buckets", prefill_buckets),
        weights="none" if no_weights else "random" if random_weights else "checkpoint",
        seed=seed,
        allow_missing=allow_missing,
        force=force or if_changed,
        full_capture=full_capture,
        passes_on=tuple(passes_on or ()),
        passes_off=tuple(passes_off or ()),
        pipeline=None if pipeline is None else str(pipeline),
    )
    require_model(model)
    require_passes("--passes-on", options.passes_on)
    require_passes("--passes-off", options.passes_off)
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
    silent = is_silent(as_json)
    with importing(silent=silent):
        from glmc.check.verify.proof import Proof
        from glmc.cli.progress import shown_progress
        from glmc.cli.tables import calls_table, passes_table, phases_table, summary_lines
        from glmc.compiler import compile_job
        from glmc.job import read_job
        from glmc.observe.dump.dumper import Dumper
        from glmc.observe.dump.options import DumpOptions
        from glmc.pipeline.events import NOBODY, Observers

    imports = elapsed()
    job = read_job(model, options)
    dumps = DumpOptions(
        directory=dump,
        before=tuple(dump_before or ()),
        after=tuple(dump_after or ()),
        changed=dump_changed,
        on_failure=dump_on_failure,
        failure_directory=default_output(model, target).with_suffix(".failure"),
        full=dump_full,
        onnx=dump_onnx,
        picture=dump_picture,
        passes=tuple(each.name for each in job.selection.passes),
    )
    dumper = Dumper(dumps)
    proof = Timed(Proof(job, dumper.verdicts, _tell) if verify else NOBODY)
    dumping = Timed(dumper)
    with shown_progress(silent=silent, verify=verify) as progress, dumper:
        result = compile_job(job, path, Observers(progress, proof, dumping)).to_json()
    for remark in dumper.remarks:
        say(f"dump: {remark}", err=True)
    if as_json:
        typer.echo(json.dumps({"artifact": str(path), **result}))
        return
    out = console()
    if report:
        out.print(passes_table(result))
        out.print(calls_table(result))
    out.print(phases_table(result))
    took = {"imports": imports, "compile": 0.0}
    took |= {"proof": proof.seconds} if verify else {}
    took |= {"dump": dumping.seconds} if dump is not None else {}
    took["writing" if no_weights else "packing"] = result["seconds"]["write"]
    for line in summary_lines(result, path, took):
        out.print(line, highlight=False, soft_wrap=True)
    out.print(_needs(path), highlight=False, soft_wrap=True)


def _needs(path: Path) -> str:
    """What the artifact takes on a device, in a line."""
    from glmc.artifact.reader import manifest_of
    from glmc_runtime.format.memory import block_bytes, weight_bytes

    manifest = manifest_of(path)
    token = block_bytes(manifest.cache) // manifest.cache.block_size
    return (
        f"needs {bytes_text(weight_bytes(manifest))} of weights and {bytes_text(token)} of cache "
        f"a token; 'glmc fit {path}' says what fits"
    )


def _tell(name: str, text: str) -> None:
    """A line for each verdict; on stderr, as it is no result."""
    if not is_silent(as_json=False):
        say(f"verify {name:<16} {text}", err=True)


def default_output(model: str, target: str) -> Path:
    """Where an artifact goes unless said otherwise: beside us, named like the model."""
    name = Path(model).resolve().name  # '.' has no name of its own
    return Path(f"{name or 'model'}.{target}.glmc")


def _numbers(flag: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{flag} is no list of numbers",
            expected="ascending numbers",
            found=repr(text),
            remedy=f"{flag} 1,2,4",
        ) from error

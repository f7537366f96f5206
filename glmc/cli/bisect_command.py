"""``glmc bisect MODEL``: which pass, match and nodes make a model come out wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from glmc.cli.names import require_names
from glmc.cli.options import (
    OUTPUT_GROUP,
    AbiProfile,
    Dtype,
    ExpertParallel,
    Model,
    PassesOff,
    PassesOn,
    Pipeline,
    RandomWeights,
    Seed,
    Target,
    TensorParallel,
    option,
)
from glmc.cli.say import console, say
from glmc.config import CompileOptions, require_named_dtype
from glmc.errors import UsageError
from glmc.plain_file import begins_with
from glmc.presets.names import preset_names
from glmc_runtime.command.ending import stopped_at_once


def bisect_command(
    model: Model,
    target: Target = "cpu",
    dtype: Dtype = None,
    abi_profile: AbiProfile = None,
    random_weights: RandomWeights = False,
    seed: Seed = 0,
    tensor_parallel: TensorParallel = 1,
    expert_parallel: ExpertParallel = False,
    passes_off: PassesOff = None,
    passes_on: PassesOn = None,
    pipeline: Pipeline = None,
    output: Annotated[
        Path,
        option(
            "Where the reproduction is written.", OUTPUT_GROUP, "--output", "-o", metavar="FILE"
        ),
    ] = Path("repro.py"),
    again: Annotated[
        bool,
        option("Prove also what compile --verify has proved before.", OUTPUT_GROUP, "--again"),
    ] = False,
) -> int:
    """Find the first pass, match and nodes that are wrong, or that crash; write repro.py.

    Exits with 0 when nothing is wrong and with 1 when something was found.
    """
    if output.is_dir() or not output.resolve().parent.is_dir():
        raise UsageError(
            f"{output} can't be written",
            expected="a file in a folder that exists",
            remedy="-o FILE",
        )
    require_named_dtype(dtype, "glmc bisect")
    options = CompileOptions(
        target=target,
        dtype=dtype,
        abi_profile=abi_profile,
        passes_on=tuple(passes_on or ()),
        passes_off=tuple(passes_off or ()),
        pipeline=None if pipeline is None else str(pipeline),
        weights="random" if random_weights or model in preset_names() else "checkpoint",
        seed=seed,
        tensor_parallel=tensor_parallel,
        expert_parallel=expert_parallel,
    )
    require_names(model, options)
    with stopped_at_once():
        from glmc.check.bisect.bisect import MARKER, PROVED, bisect
        from glmc.check.bisect.replayed import REPLAYED
        from glmc.presets.catalog import load_config

    if output.exists() and not begins_with(output, MARKER, 80):
        raise UsageError(
            f"{output} exists and is no reproduction of ours",
            expected="a new file, or one that glmc bisect wrote",
            remedy="--output another.py",
        )
    source = load_config(model, {"dtype": dtype})
    skipped = 0

    def tell(step: object, text: str) -> None:
        nonlocal skipped
        skipped += text == PROVED
        say(f"{step} {text}", err=True)

    result = bisect(source, options, tell, skip_proved=not again)
    if skipped:
        steps = "1 step was" if skipped == 1 else f"{skipped} steps were"
        say(f"{steps} {PROVED}; --again proves all", err=True)
    if result is None:
        replayed = "replayed right" if target in REPLAYED else "made, but can't be replayed here"
        console().print(f"Nothing is wrong: every step is proved, and the plan is {replayed}.")
        return 0
    say(result.paragraph(str(output)))
    output.write_text(result.repro, encoding="utf-8")
    return 1

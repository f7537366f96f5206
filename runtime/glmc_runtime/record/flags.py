"""The options of a command that records a run, and what they come to; torch is not imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from glmc_runtime.command.nearest import did_you_mean
from glmc_runtime.command.options import LOADING, OUTPUT, Option
from glmc_runtime.errors import RequestError
from glmc_runtime.record.layers import layers_from
from glmc_runtime.record.options import LEVELS, MODULE, RecordOptions

Encode = Callable[[str], list[int]]
Sequences = tuple[tuple[int, ...], ...]

_INPUT, _WHAT = "Prompts", "What is recorded"
_STEPS = 1
SUFFIXES = (".h5", ".hdf5")
INPUT_OPTIONS = (
    Option("--prompt", "A prompt, repeatable.", many=True, metavar="TEXT", group=_INPUT),
    Option(
        "--ids",
        "Prompts as token ids, such as '1,2;3,4'.",
        metavar="IDS",
        group=_INPUT,
    ),
    Option(
        "--like",
        "Compute the prompts and tokens of this record.",
        metavar="FILE.h5",
        group=_INPUT,
    ),
    Option(
        "--steps",
        "Decode steps after prefill, with the likeliest tokens or those of --like "
        f"(default: {_STEPS}, or all of --like).",
        int,
        metavar="N",
        group=_INPUT,
    ),
)
"""What is computed; a comparison has them, too."""

RECORD_OPTIONS = (
    Option(
        "--output",
        "The record; a summary as FILE_summary.csv beside it.",
        short="-o",
        metavar="FILE.h5",
        group=OUTPUT,
    ),
    *INPUT_OPTIONS,
    Option("--layers", "Only these, such as 0,3-5.", metavar="LAYERS", group=_WHAT),
    Option(
        "--modules",
        "Only modules of this name, such as '*.mlp*'; repeatable.",
        many=True,
        metavar="GLOB",
        group=_WHAT,
    ),
    Option(
        "--level",
        "What modules take and return, or also each op between them.",
        default=MODULE,
        metavar="module|op",
        group=_WHAT,
    ),
    Option(
        "--keep",
        "Elements of each tensor: all, N rows of it, or statistics alone.",
        default="all",
        metavar="all|rows:N|statistics",
        group=_WHAT,
    ),
    Option(
        "--device",
        "Where a checkpoint or an emulated artifact runs (default: cpu).",
        metavar="cpu|cuda",
        group=LOADING,
    ),
)


def output_of(options: SimpleNamespace) -> Path:
    """The record that is written; raises :class:`RequestError` where none is named, or another kind
    of file is."""
    if not options.output:
        raise RequestError(
            "a record needs a file", expected="--output FILE.h5", remedy="--output run.h5"
        )
    output = Path(options.output)
    if output.suffix not in SUFFIXES:
        raise RequestError(
            "a record is an HDF5 file, and is named like one",
            place=str(output),
            expected=f"a name that ends in {' or '.join(SUFFIXES)}",
            found=repr(output.suffix),
            remedy=f"--output {output.stem}.h5",
        )
    return output


def record_options(
    options: SimpleNamespace, encode: Encode, *, parameters: bool = False
) -> RecordOptions:
    """What is recorded; ``encode`` makes tokens of a text. Raises :class:`RequestError`, and
    :class:`RecordError` for a record that ``--like`` can't read."""
    if options.level not in LEVELS:
        raise RequestError(
            f"there is no level '{options.level}'",
            expected=", ".join(LEVELS),
            remedy=did_you_mean(options.level, LEVELS) or f"--level {MODULE}",
        )
    prompts, tokens = _input(options, encode)
    return RecordOptions(
        prompts=prompts,
        steps=_steps(options.steps, tokens),
        tokens=tokens,
        layers=layers_from(options.layers) if options.layers else frozenset(),
        modules=tuple(options.modules or ()),
        level=options.level,
        parameters=parameters,
    )


def _input(options: SimpleNamespace, encode: Encode) -> tuple[Sequences, Sequences | None]:
    """The prompts, and the tokens of decode steps where a record has them."""
    used = {"--prompt": options.prompt, "--ids": options.ids, "--like": options.like}
    flags = [flag for flag, value in used.items() if value]
    if len(flags) != 1:
        raise RequestError(
            "a run is recorded of prompts, and they come from one place",
            expected="one of --prompt, --ids and --like",
            found=" and ".join(flags) or "none",
            remedy="--prompt TEXT",
        )
    if options.like:
        from glmc_runtime.record.h5_facts import recorded_run

        run = recorded_run(Path(options.like))
        return run.prompts, run.tokens
    if options.ids:
        return _sequences(options.ids), None
    prompts = tuple(tuple(encode(text)) for text in options.prompt)
    if not all(prompts):
        raise RequestError("a prompt has no tokens", remedy="--prompt TEXT")
    return prompts, None


def _steps(steps: int | None, tokens: Sequences | None) -> int:
    known = None if tokens is None else len(tokens[0])
    if steps is None:
        return _STEPS if known is None else known
    if steps < 0 or (known is not None and steps > known):
        raise RequestError(
            "--steps is out of range",
            expected="at least 0" if known is None else f"0 to {known}, as many as --like has",
            found=str(steps),
            remedy=f"--steps {_STEPS}",
        )
    return steps


def _sequences(text: str) -> Sequences:
    try:
        prompts = tuple(tuple(map(int, each.split(","))) for each in text.split(";"))
    except ValueError as error:
        raise RequestError(
            "--ids is no list of token ids",
            expected="ids such as 1,2,3, a semicolon between prompts",
            found=text,
            remedy="--ids '1,2,3;4,5'",
        ) from error
    return prompts

"""``glmc record SIDE``: the tensors of a run, as a file of torch_xray's layout. An artifact is
recorded by the runtime's command."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from inspect import Parameter, Signature
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from glmc.cli.options import MODEL_GROUP, all_dtypes, models, option
from glmc.cli.runtime_commands import parameter_of
from glmc.cli.say import say
from glmc.cli.stages import importing, is_silent, stage_line
from glmc.config import DTYPES
from glmc.errors import UsageError
from glmc.presets.names import preset_names
from glmc_runtime.cli.artifact_runs import ARTIFACT_OPTIONS
from glmc_runtime.cli.commands import RECORD
from glmc_runtime.command.ending import stopped_at_once
from glmc_runtime.command.nearest import did_you_mean
from glmc_runtime.command.output import counted
from glmc_runtime.format.artifact_files import MANIFEST
from glmc_runtime.record.flags import Encode, output_of, record_options
from glmc_runtime.record.keep import Keep
from glmc_runtime.record.like import ModelOfRecord, require_like


def record_command(**values: Any) -> None:
    """Record the tensors of a run: prefill, then decode steps.

    Of a checkpoint, what each module takes and returns: the model is Hugging Face's own, in eager
    mode. Of an artifact, what its kernel calls complete, under the same keys. FILE.h5 has
    torch_xray's layout and keys, and beside it is FILE_summary.csv with statistics of each tensor.
    """
    _record(SimpleNamespace(**values))


_OF_CHECKPOINTS: dict[str, tuple[Any, Any, Any]] = {
    "dtype": (
        str | None,
        None,
        option(
            "float32, bfloat16 or float16; default: the checkpoint's.",
            MODEL_GROUP,
            metavar="NAME",
            names=all_dtypes,
        ),
    ),
    "parameters": (
        bool,
        False,
        option("Record the weights of each module, too.", MODEL_GROUP, "--parameters"),
    ),
}
_SIDE = typer.Argument(
    help="A checkpoint directory or an artifact.", metavar="SIDE", autocompletion=models
)
# As typer reads it: the options of an artifact are those of the runtime's command.
record_command.__signature__ = Signature(  # type: ignore[attr-defined]
    [
        Parameter("side", Parameter.KEYWORD_ONLY, annotation=Annotated[str, _SIDE]),
        *map(parameter_of, RECORD.options),
        *(
            Parameter(
                name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, each]
            )
            for name, (kind, default, each) in _OF_CHECKPOINTS.items()
        ),
    ]
)


def _record(options: SimpleNamespace) -> None:
    if (Path(options.side) / MANIFEST).is_file():
        _require_unused(options, _OF_CHECKPOINTS, "an artifact")
        RECORD.load()(SimpleNamespace(**{**vars(options), "artifact": options.side}))
    else:
        _require_unused(options, [option.name for option in ARTIFACT_OPTIONS], "a checkpoint")
        _record_checkpoint(options)


def _require_unused(options: SimpleNamespace, names: Iterable[str], side: str) -> None:
    """Refuse options of the other kind of side."""
    used = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)]
    if used:
        raise UsageError(
            f"an option has no meaning for {side}",
            place=options.side,
            found=", ".join(used),
            remedy="leave it out",
        )


def _record_checkpoint(options: SimpleNamespace) -> None:
    side, output, keep = Path(options.side), output_of(options), Keep.parse(options.keep)
    _require_checkpoint(side)
    if options.dtype is not None and options.dtype not in DTYPES:
        raise UsageError(
            f"there is no dtype '{options.dtype}'",
            expected=", ".join(DTYPES),
            remedy=did_you_mean(options.dtype, DTYPES) or "leave --dtype out",
        )
    wanted = record_options(options, encoder_of(side), parameters=options.parameters)
    silent = is_silent(as_json=False)
    with stopped_at_once(), importing(silent=silent):
        from glmc.check.align.reference import record_checkpoint
        from glmc_runtime.record.h5_file import H5File

    def check(model: ModelOfRecord) -> None:
        if options.like:
            remark = require_like(Path(options.like), model)
            if remark is not None and not silent:
                say(remark, err=True)

    with H5File(output, keep) as sink:
        if not silent:
            stage_line(f"recording {side.name}")
        left_out = record_checkpoint(
            side, sink, wanted, dtype=options.dtype, device=options.device or "cpu", check=check
        )
    if left_out and not silent:
        say(
            f"{counted(len(left_out), 'tensor')} left out: prompts of several lengths run one at a "
            "time, and these have no row for each token",
            err=True,
        )
    say(f"{output}: {counted(sink.count, 'tensor')} of {counted(wanted.steps + 1, 'step')}")


def _require_checkpoint(side: Path) -> None:
    """Refuse what has no model of Hugging Face."""
    if (side / "config.json").is_file():
        return
    if str(side) in preset_names():
        raise UsageError(
            "a preset has no weights to compute with", remedy="pass a checkpoint directory"
        )
    raise UsageError(
        "there is no checkpoint to record, and no artifact",
        place=str(side),
        expected=f"a directory with config.json or {MANIFEST}",
        found="neither",
        remedy="pass the directory of a downloaded checkpoint, or one that glmc compile wrote",
    )


def encoder_of(side: Path) -> Encode:
    """Makes the token ids of a text that an artifact of the checkpoint makes, too."""

    @cache
    def text() -> Any:
        with stopped_at_once(), importing(silent=is_silent(as_json=False)):
            from glmc.tokenizer import tokenizer_files
            from glmc_runtime.generate.text import Text

        return Text(tokenizer_files(side).files)

    def encode(prompt: str) -> list[int]:
        ids: list[int] = text().encode(prompt)
        return ids

    return encode

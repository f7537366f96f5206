"""What ``glmc diff`` is asked to compare: files that are read, and models that are compiled."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from glmc.artifact.inputs import Inputs, inputs_of_model
from glmc.cli.app import command_of
from glmc.cli.commands import ROWS
from glmc.cli.compile_command import numbers_of
from glmc.cli.stages import importing, stage_line
from glmc.config import TARGETS, CompileOptions
from glmc.errors import UsageError
from glmc.observe.diff.sides import Side, read_side, side_of
from glmc.pipeline.names import require_passes
from glmc.presets.names import require_model
from glmc_runtime.command.ending import stopped_at_once

_FIELDS = tuple(field.name for field in fields(CompileOptions))


@dataclass(frozen=True)
class ModelWords:
    """A model, and the options that were written beside it."""

    label: str
    model: str
    options: Mapping[str, Any]


def all_sides(
    texts: Sequence[str], flags: Mapping[str, Any], *, silent: bool = False
) -> tuple[Side, ...]:
    """The sides. A model is compiled with the options of the first side that has some recorded,
    with ``flags`` over them and with the options beside its name over these.

    Raises :class:`UsageError` for flags without a model to compile, and what reading and compiling
    raise.
    """
    sides = [_side(text) or _words(text) for text in texts]
    models = [side for side in sides if isinstance(side, ModelWords)]
    if flags and not models:
        raise UsageError(
            "options are for a model that is compiled, and all sides are there already",
            found=", ".join(f"--{name.replace('_', '-')}" for name in flags),
            remedy="leave them out",
        )
    recorded = next((side.inputs for side in sides if isinstance(side, Side)), None)
    base, remarks = _trusted(recorded)
    options = [_options(each, base, flags) for each in models]  # all, before the first is compiled
    compiled = _compile(models, options, silent=silent)
    return tuple(
        side if isinstance(side, Side) else replace(next(compiled), remarks=remarks)
        for side in sides
    )


def _trusted(recorded: Inputs | None) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The options of a side that another one is compiled with, and what is said of the others.

    An artifact may come from anywhere: which file is read and which installed code is imported is
    for whoever types the command to say.
    """
    if recorded is None:
        return {}, ()
    options = {name: value for name, value in recorded.options.items() if name in _FIELDS}
    options.pop("pipeline", None)
    left_out = {"--pipeline": bool(recorded.pipeline)}
    left_out["--passes-on"] = bool(options.pop("passes_on", ()))
    if options.get("target", TARGETS[0]) not in TARGETS:
        left_out["--target"] = bool(options.pop("target"))
        options.pop("abi_profile", None)
    flags = ", ".join(flag for flag, there in left_out.items() if there)
    if not flags:
        return options, ()
    return options, (f"{flags} of the recorded compile left out: only what is typed is imported",)


def _side(text: str) -> Side | None:
    """What is at a path; an empty one is none, and not the folder that one stands in."""
    return read_side(Path(text)) if text.strip() else None


def _words(text: str) -> ModelWords:
    """``glm-4.7 --passes-off rope`` as ``glmc compile`` reads it."""
    words = _split(text)
    if len(words) < 2:
        require_model(text)
        return ModelWords(text, text, {})
    command = command_of(next(row for row in ROWS if row.name == "compile"))
    # No option may end the command before it has compared: --help is none here.
    context = command.make_context("glmc compile", list(words), help_option_names=[])
    source = context.get_parameter_source
    written = {
        name: value
        for name, value in context.params.items()
        if name != "model" and getattr(source(name), "name", "") == "COMMANDLINE"
    }
    model = str(context.params["model"])
    require_model(model)
    return ModelWords(text, model, dict(_option(name, value) for name, value in written.items()))


def _split(text: str) -> list[str]:
    """The words of an argument; a path is one, whatever is in it."""
    try:
        words = [text] if text and Path(text).exists() else shlex.split(text)
    except ValueError as error:
        raise UsageError(
            f"a model and its options can't be told apart: {error}",
            found=text,
            remedy='close the quotation: "glm-4.7 --passes-off rope"',
        ) from error
    if not words:
        raise UsageError(
            "there is nothing to compare",
            expected="an artifact, a dump, a history.json or a model",
            found=repr(text),
            remedy="name one",
        )
    return words


def _option(name: str, value: Any) -> tuple[str, Any]:
    if name.endswith("_buckets"):
        return name, numbers_of(f"--{name.replace('_', '-')}", value)
    if name in ("no_weights", "random_weights"):
        return "weights", name.partition("_")[0].replace("no", "none")
    if name == "pipeline":
        return name, str(value)
    if name not in _FIELDS:
        raise UsageError(
            f"--{name.replace('_', '-')} does not change what is compiled",
            remedy="leave it out; glmc diff compiles without weights and writes nothing",
        )
    return name, tuple(value) if isinstance(value, list) else value


def _options(
    words: ModelWords, base: Mapping[str, Any], flags: Mapping[str, Any]
) -> CompileOptions:
    own = {**flags, **words.options}
    known = dict(base)
    if own.get("target", known.get("target")) != known.get("target"):
        known.pop("abi_profile", None)  # of the other target
    options = CompileOptions(**{**known, **own})
    require_passes("--passes-on", options.passes_on)
    require_passes("--passes-off", options.passes_off)
    return options


def _compile(
    models: Sequence[ModelWords], options: Sequence[CompileOptions], *, silent: bool
) -> Iterator[Side]:
    if not models:
        return
    read = [
        inputs_of_model(words.model, own).inputs  # before modules that they say of
        for words, own in zip(models, options, strict=True)
    ]
    with stopped_at_once(), importing(silent=silent):
        from glmc.cli.progress import shown_progress
        from glmc.compiled import manifest_parts
        from glmc.compiler import compile_plan
        from glmc.job import read_job
        from glmc.observe.history.collect import HistoryCollector
        from glmc.pipeline.events import Observers

    for words, own, inputs in zip(models, options, read, strict=True):
        if not silent:
            stage_line(words.label)
        job = read_job(words.model, own)
        collector = HistoryCollector(job.selection.passes)
        with shown_progress(silent=silent, verify=False) as progress:
            compiled = compile_plan(job, Observers(progress, collector))
        history = collector.planned(compiled, manifest_parts(compiled).versions, {})
        yield side_of(words.label, "compile", history, inputs)

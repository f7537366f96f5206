"""A fault outside the passes: the model with the fewest layers that still shows it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from glmc.check.bisect.crash import raised_by
from glmc.check.bisect.finding import commented
from glmc.check.bisect.replayed import WrongCall, wrong_call
from glmc.compiler import compile_plan
from glmc.config import CompileOptions
from glmc.job import read_job
from glmc.presets.catalog import ModelSource, load_config

_TEXT = """
import json
import tempfile
from pathlib import Path

from glmc.compiler import compile_plan
from glmc.config import CompileOptions
from glmc.job import read_job

config = json.loads({config!r})
options = {options}
with tempfile.TemporaryDirectory() as folder:
    Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
    compile_plan(read_job(folder, options))  # raises {error}
"""

_CALL_TEXT = """
import json
import sys
import tempfile
from pathlib import Path

from glmc.check.bisect.replayed import wrong_call
from glmc.config import CompileOptions
from glmc.presets.catalog import load_config

options = {options}
with tempfile.TemporaryDirectory() as folder:
    {model}
    wrong = wrong_call(load_config(model, options.supplied), options)
print(wrong or "every call computes its node")
sys.exit(1 if wrong else 0)
"""
_MADE = """config = json.loads({config!r})
    Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = folder"""


def call_repro(
    title: Sequence[str], source: ModelSource, options: CompileOptions, wrong: WrongCall
) -> str:
    """The text of ``repro.py`` that replays a plan call by call.

    Of a model with random weights and the fewest layers, where its plan goes wrong in the same
    kernel; of the model itself where none does.
    """
    random = replace(options, weights="random")
    for fewer in _with_fewer_layers(source):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "config.json").write_text(json.dumps(fewer), encoding="utf-8")
            first_wrong = wrong_call(load_config(folder), random)
        if first_wrong is not None and first_wrong.functions == wrong.functions:
            made = _MADE.format(config=json.dumps(fewer))
            return commented(title) + _CALL_TEXT.format(options=random, model=made)
    name = str(source.directory.resolve()) if source.directory else source.name
    return commented(title) + _CALL_TEXT.format(options=options, model=f"model = {name!r}")


_VERIFY_TEXT = """
import sys
import tempfile

from glmc.cli.main import main

arguments = {arguments!r}
with tempfile.TemporaryDirectory() as folder:
    sys.exit(main([*arguments, "--output", folder + "/artifact"]))  # the plan is verified
"""


def verified_repro(title: Sequence[str], source: ModelSource, options: CompileOptions) -> str:
    """The text of ``repro.py`` that compiles the model itself and verifies the replayed plan."""
    model = str(source.directory.resolve()) if source.directory else source.name
    arguments = ["compile", model, "--target", options.target, "--verify", "--no-weights"]
    for flag, value in (("--dtype", options.dtype), ("--abi-profile", options.abi_profile)):
        arguments += [flag, value] if value else []
    for flag, names in (("--passes-on", options.passes_on), ("--passes-off", options.passes_off)):
        arguments += [part for name in names for part in (flag, name)]
    arguments += ["--pipeline", options.pipeline] if options.pipeline else []
    if options.tensor_parallel > 1:
        arguments += ["--tensor-parallel", str(options.tensor_parallel)]
    arguments += ["--expert-parallel"] if options.expert_parallel else []
    return commented(title) + _VERIFY_TEXT.format(arguments=arguments)


def _with_fewer_layers(source: ModelSource) -> Iterator[dict[str, Any]]:
    config: dict[str, Any] = json.loads(json.dumps(source.config.to_dict(), default=str))
    for layers in range(1, source.shape.layers + 1):
        yield {**config, "num_hidden_layers": layers}


def fewest_layers(
    source: ModelSource, options: CompileOptions, error: Exception
) -> dict[str, Any] | None:
    """The config with the fewest layers whose compile raises; None when none does."""
    for fewer in _with_fewer_layers(source):
        if raised_by(lambda fewer=fewer: _compile(fewer, options), error):  # type: ignore[misc]
            return fewer
    return None


def whole_repro(
    title: Sequence[str], config: dict[str, Any], options: CompileOptions, error: Exception
) -> str:
    """The text of ``repro.py`` that compiles a model of this config."""
    return commented(title) + _TEXT.format(
        config=json.dumps(config), options=options, error=type(error).__name__
    )


def _compile(config: dict[str, Any], options: CompileOptions) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
        compile_plan(read_job(folder, options))

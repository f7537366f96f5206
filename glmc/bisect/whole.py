"""A crash outside the passes: the model with the fewest layers that still shows it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glmc.bisect.crash import raised_by
from glmc.bisect.finding import commented
from glmc.config import CompileOptions
from glmc.driver import compile_plan
from glmc.presets.catalog import ModelSource

_TEXT = """
import json
import tempfile
from pathlib import Path

from glmc.config import CompileOptions
from glmc.driver import compile_plan

config = json.loads({config!r})
options = {options}
with tempfile.TemporaryDirectory() as folder:
    Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
    compile_plan(folder, options)  # raises {error}
"""


def fewest_layers(
    source: ModelSource, options: CompileOptions, error: Exception
) -> dict[str, Any] | None:
    """The config with the fewest layers whose compile raises; None when none does."""
    config: dict[str, Any] = json.loads(json.dumps(source.config.to_dict(), default=str))
    for layers in range(1, source.shape.layers + 1):
        fewer = {**config, "num_hidden_layers": layers}
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
        compile_plan(folder, options)

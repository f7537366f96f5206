"""Captures of one process, kept: tracing is nine tenths of what a compile of a tiny model costs.

Tests of capture itself, and those that change transformers or the model's code, trace anew.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from glmc.capture.export import capture
from glmc.capture.model import CaptureOptions
from glmc.config import CompileOptions
from glmc.ir.program import ModelShape, Program
from glmc.job import read_job

_LOCK = threading.Lock()
_KEPT: dict[Hashable, Program] = {}


def remembered(
    config: Any, shape: ModelShape, dtype: torch.dtype, options: CaptureOptions | None = None
) -> Program:
    """As :func:`glmc.capture.export.capture`; a copy of the program when it was traced before."""
    options = options or CaptureOptions()
    # A model's name is only handed through: the same config from another folder is the same graph.
    text = config.to_json_string(use_diff=False)
    key = (type(config), text, replace(shape, name=""), dtype, options)
    with _LOCK:
        if key not in _KEPT:
            _KEPT[key] = capture(config, shape, dtype, options)
        program = _KEPT[key].copy()
    program.model = shape
    return program


def remember(model: Path) -> None:
    """Trace the checkpoint now: forks of this process inherit it and can't hand theirs back."""
    job = read_job(model, CompileOptions())
    remembered(job.source.config, job.source.shape, job.dtype, job.capture)

"""The commands of ``glmc``: a row each. A command's module is imported when it is called.

The module declares the options and imports nothing that computes: torch, transformers and sympy
take seconds, and ``--help`` or a slip of the keyboard should not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from glmc_runtime.cli.commands import CHAT, DOCTOR, FIT, RUN, TUNE_COLLECTIVES

MAKE, USE, LOOK = "Compile", "Run", "Understand"
OF_RUNTIME = "glmc.cli.runtime_commands"


@dataclass(frozen=True)
class Row:
    """``function`` is ``module:name``; its parameters are the command's options. ``group`` is the
    heading in ``glmc --help``."""

    name: str
    group: str
    summary: str
    function: str

    def load(self) -> Callable[..., Any]:
        module, _, name = self.function.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function

    @property
    def of_runtime(self) -> bool:
        """Whether ``glmc-runtime`` has it too."""
        return self.function.startswith(OF_RUNTIME)


ROWS = (
    Row(
        "compile",
        MAKE,
        "Compile a model into an artifact that glmc-runtime replays.",
        "glmc.cli.compile_command:compile_command",
    ),
    Row(
        "presets",
        MAKE,
        "List the published models that are known by name.",
        "glmc.cli.presets_command:presets_command",
    ),
    Row("run", USE, RUN.summary, f"{OF_RUNTIME}:run"),
    Row("chat", USE, CHAT.summary, f"{OF_RUNTIME}:chat"),
    Row("doctor", USE, DOCTOR.summary, f"{OF_RUNTIME}:doctor"),
    Row(
        TUNE_COLLECTIVES.name,
        USE,
        TUNE_COLLECTIVES.summary,
        f"{OF_RUNTIME}:tune_collectives",
    ),
    Row(
        "inspect",
        LOOK,
        "Show passes, kernels, memory, what fits and what was not fused.",
        "glmc.cli.inspect_command:inspect_command",
    ),
    Row("fit", LOOK, FIT.summary, "glmc.cli.fit_command:fit_command"),
    Row(
        "estimate",
        LOOK,
        "Predict what fits on a device, and how long each kernel of a step takes.",
        "glmc.cli.estimate_command:estimate_command",
    ),
    Row(
        "bisect",
        LOOK,
        "Find the first pass, match and nodes that are wrong.",
        "glmc.cli.bisect_command:bisect_command",
    ),
    Row(
        "diff",
        LOOK,
        "Show what differs between two artifacts, dumps or compiles.",
        "glmc.cli.diff_command:diff_command",
    ),
    Row(
        "align",
        LOOK,
        "Compare the tensors of two runs, and say where they first diverge.",
        "glmc.cli.align_command:align_command",
    ),
    Row(
        "timeline",
        LOOK,
        "Show where the time of a step goes, and what one profiler's file pays that another does "
        "not.",
        "glmc.cli.timeline_command:timeline_command",
    ),
    Row(
        "record",
        LOOK,
        "Record the tensors of a run: what each module takes and returns.",
        "glmc.cli.record_command:record_command",
    ),
)

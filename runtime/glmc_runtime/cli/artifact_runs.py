"""The options of a command that records an artifact, beside those of any record, and what they come
to; torch is not imported."""

from __future__ import annotations

from types import SimpleNamespace

from glmc_runtime.cli.sessions import CHECKPOINT, PLACE_OPTIONS
from glmc_runtime.command.options import Option
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.format.memory import parse_bytes
from glmc_runtime.record.artifact_run import TAP_MEMORY, ArtifactRun

_HOW = "Artifacts"
ARTIFACT_OPTIONS = (
    Option(
        "--calls",
        "Run call by call. By default values are copied inside replayed steps and device graphs.",
        bool,
        default=False,
        group=_HOW,
    ),
    Option(
        "--tap-memory",
        "Memory for these copies (default: 1GiB); a step is replayed as often as it takes.",
        metavar="SIZE",
        group=_HOW,
    ),
    *(option for option in PLACE_OPTIONS if option.flag != "--device"),  # any record has it
    CHECKPOINT,
)


def artifact_run(options: SimpleNamespace) -> ArtifactRun:
    """How an artifact runs; raises :class:`RequestError`."""
    memory = TAP_MEMORY if options.tap_memory is None else parse_bytes(options.tap_memory)
    load = LoadOptions(
        emulate=options.emulate, device=options.device, checkpoint=options.checkpoint
    )
    return ArtifactRun(not options.calls, memory, load, not options.no_verify)

"""The session that a command generates with, and the options of loading it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from glmc_runtime import load
from glmc_runtime.command.ending import stopped_at_once
from glmc_runtime.command.options import LOADING, Option
from glmc_runtime.format.artifact_files import require_directory
from glmc_runtime.loading.progress import CHECKING, shown_progress
from glmc_runtime.package.constants import GUARD_STEPS

if TYPE_CHECKING:
    from glmc_runtime.generate.session import Session

PLACE_OPTIONS = (
    Option("--no-verify", "Do not compare file hashes.", bool, default=False, group=LOADING),
    Option(
        "--emulate", "Force or refuse the vendor emulator.", bool, negatable=True, group=LOADING
    ),
    Option(
        "--device",
        "Where an emulated artifact runs (default: cpu).",
        metavar="cpu|cuda",
        group=LOADING,
    ),
)
"""Those of everything that loads an artifact."""

CHECKPOINT = Option(
    "--checkpoint",
    "The checkpoint that weights are made of (default: what was compiled).",
    metavar="DIR",
    group=LOADING,
)
SESSION_OPTIONS = (
    *PLACE_OPTIONS,
    CHECKPOINT,
    Option(
        "--kv-blocks",
        "Blocks of the KV cache, scratch included.",
        int,
        metavar="N",
        group=LOADING,
    ),
    Option(
        "--guard-steps",
        "Check what vendor calls return and write in the first N steps of each phase.",
        int,
        default=GUARD_STEPS,
        metavar="N",
        group=LOADING,
    ),
)


def session_of(
    options: SimpleNamespace, *, timing: bool = False, timeline: bool = False
) -> Session:
    """Load the artifact; a line of a terminal shows how far its files were read. With ``timeline``
    its calls must be some that can be timed."""
    require_directory(options.artifact)
    with stopped_at_once():
        import_module("glmc_runtime.generate.session")
    if timeline:
        _require_timed(options.artifact)
    with shown_progress(CHECKING) as progress:
        return load(
            options.artifact,
            verify_hashes=not options.no_verify,
            kv_blocks=options.kv_blocks,
            emulate=options.emulate,
            device=options.device,
            checkpoint=options.checkpoint,
            timing=timing,
            guard_steps=options.guard_steps,
            progress=progress,
        )


def timeline_of(path: str | None, session: Session) -> AbstractContextManager[None]:
    """The timeline that is written to ``path``; nothing without one."""
    if path is None:
        return nullcontext()
    return session.timeline(path)


def _require_timed(artifact: str) -> None:
    from glmc_runtime.engine.machines import require_timed
    from glmc_runtime.loading.loader import listed_files

    manifest, _ = listed_files(Path(artifact))
    require_timed(manifest)


def where_of(session: Session) -> str:
    """What the numbers of a run have to say of themselves."""
    return " (emulated)" if session.emulated else " (interpreted)" if session.interpreted else ""

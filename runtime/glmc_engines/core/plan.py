"""The artifact that serves a checkpoint: the one that is named, or one that is compiled for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from glmc_engines.core.compiler import compiled, compiler_of
from glmc_engines.core.errors import NoArtifactError
from glmc_engines.core.header import Header
from glmc_engines.core.options import Options
from glmc_engines.core.same_model import require_model
from glmc_engines.core.wanted import Wanted
from glmc_runtime.errors import GlmcError

NAMED, COMPILED, CACHED = "named", "compiled", "cached"


@dataclass(frozen=True)
class Found:
    """An artifact that fits. ``origin`` is "named", "compiled" at this start, or "cached" from an
    earlier one."""

    header: Header
    origin: str

    @property
    def path(self) -> Path:
        return self.header.path


def artifact_for(checkpoint: str | PathLike[str], wanted: Wanted, options: Options) -> Found:
    """The artifact for the checkpoint that an engine loads.

    One that is named must fit what is ``wanted``; nothing else is looked for then. Otherwise a plan
    is compiled of the checkpoint's config.json, or taken from where earlier ones are kept.

    Raises :class:`NoArtifactError` for an artifact of another model, dtype, target or number of
    ranks, with the command that compiles the right one, and where none can be had;
    :class:`UnsupportedError` for what glmc does not compile and for larger steps than the artifact
    has; :class:`CompileError` for a compile that failed, which is never to be passed over; and
    :class:`glmc_runtime.errors.ArtifactError` for a damaged artifact.
    """
    place = Path(checkpoint)
    if options.artifact is not None:
        header = Header.of(options.artifact)
        with _command(wanted, place):
            require_model(header, place, options.require)
        _require(header, place, wanted)
        return Found(header, NAMED)
    compiler = compiler_of(options, wanted.target)
    if compiler is None:
        raise NoArtifactError(
            "no artifact is named, and there is no compiler to make one",
            expected="GLMC_ARTIFACT=DIRECTORY, or GLMC_COMPILER=PYTHON with glmc installed there",
            found="neither, and no glmc in the engine's own interpreter",
            remedy=f"compile where glmc is installed, and name the artifact: "
            f"{wanted.command(place)}",
        )
    path, origin = compiled(place, wanted, compiler)
    header = Header.of(path)
    _require(header, place, wanted)
    return Found(header, origin)


def _require(header: Header, checkpoint: Path, wanted: Wanted) -> None:
    """Raise unless the artifact fits. What was compiled of a config.json is kept under its hash and
    needs no look at the model."""
    with _command(wanted, checkpoint):
        _require_target(header, wanted)
        header.check(wanted.sizes_of(header))
        _require_blocks(header, wanted)


@contextmanager
def _command(wanted: Wanted, checkpoint: Path) -> Iterator[None]:
    """Errors with the command that compiles an artifact that fits."""
    try:
        yield
    except GlmcError as error:
        command = wanted.command(checkpoint)
        error.remedy = f"{error.remedy}: {command}" if error.remedy else command
        raise


def _require_target(header: Header, wanted: Wanted) -> None:
    """Calls of a device may run in host memory, emulated or interpreted, as the runtime will say;
    those of a CPU run nowhere else."""
    target = header.manifest.target
    if target == "cpu" and wanted.target != "cpu":
        raise NoArtifactError(
            "the artifact is for another target than the engine computes on",
            place=str(header.path),
            expected=wanted.target,
            found=target,
            remedy=f"compile with --target {wanted.target}",
        )


def _require_blocks(header: Header, wanted: Wanted) -> None:
    cache = header.manifest.cache
    tokens = cache.blocks_per_sequence * cache.block_size
    if wanted.block_size is not None and tokens % wanted.block_size:
        raise NoArtifactError(
            "the block tables of the artifact hold no whole number of the engine's blocks",
            place=str(header.path),
            expected=f"blocks of {wanted.block_size} tokens",
            found=f"tables of {tokens} tokens, in blocks of {cache.block_size}",
            remedy=f"start the engine with blocks of {cache.block_size}, or compile with "
            f"--block-size {wanted.block_size}",
        )

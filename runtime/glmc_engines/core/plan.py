"""The artifact that serves a checkpoint: the one that is named, or one that is compiled for it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any

from glmc_engines.core.compiler import CONFIG, compiled, compiler_of
from glmc_engines.core.errors import NoArtifactError
from glmc_engines.core.header import Header
from glmc_engines.core.options import Options
from glmc_engines.core.wanted import Wanted
from glmc_runtime.errors import GlmcError
from glmc_runtime.loading.loader import listed_files

NAMED, COMPILED, CACHED = "named", "compiled", "cached"
# Facts of a manifest, and the fields of config.json that say the same.
_FIELDS = {
    "layers": "num_hidden_layers",
    "vocabulary": "vocab_size",
    "hidden": "hidden_size",
    "query_heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
}
_INPUTS = "inputs.json"  # what the compiler wrote of what it had read
_LOG = logging.getLogger("glmc.engines")


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
    """Raise unless the artifact fits, with the command that compiles one that does."""
    try:
        _require_model(header, checkpoint)
        _require_target(header, wanted)
        header.check(wanted.sizes_of(header))
        _require_blocks(header, wanted)
    except GlmcError as error:
        command = wanted.command(checkpoint)
        error.remedy = f"{error.remedy}: {command}" if error.remedy else command
        raise


def _require_model(header: Header, checkpoint: Path) -> None:
    """The checkpoint's config.json is the one that was compiled, or agrees in all sizes."""
    try:
        data = (checkpoint / CONFIG).read_bytes()
        config = json.loads(data)
    except (OSError, ValueError):
        config, data = None, b""
    if not isinstance(config, dict):
        _LOG.warning("%s has no config.json to compare with %s", checkpoint, header.path)
        return
    if sha256(data).hexdigest() == _compiled_config(header):
        return
    differing = list(_differing(header, config))
    if differing:
        raise NoArtifactError(
            "the artifact is of another model than the engine's",
            place=str(header.path),
            expected=", ".join(f"{name} {wanted}" for name, wanted, _ in differing),
            found=", ".join(f"{name} {has}" for name, _, has in differing),
            remedy="name an artifact of this checkpoint, or compile one",
        )
    _LOG.warning(
        "%s was compiled of another config.json than that of %s; architecture and sizes agree",
        header.path,
        checkpoint,
    )


def _differing(header: Header, config: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    model = header.manifest.model
    architectures = config.get("architectures") or [model.architecture]
    if model.architecture not in architectures:
        yield "architecture", ", ".join(map(str, architectures)), model.architecture
    for fact, field in _FIELDS.items():
        value, has = config.get(field), getattr(model, fact)
        if value is not None and value != has:
            yield field, value, has


def _compiled_config(header: Header) -> str | None:
    """The sha256 of the config.json that was compiled; None where the artifact does not say."""
    try:
        data = listed_files(header.path)[1].read(_INPUTS, compare=True)
        found = json.loads(data)["files"][CONFIG]["sha256"]
    except (GlmcError, ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, str) else None


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

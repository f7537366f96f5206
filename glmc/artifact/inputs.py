"""``inputs.json``: what an artifact was made from, so that the next compile can be spared.

The model's files, the options, the versions and the compiler's own sources. Files of up to 64 MiB
count by the hash of their bytes. Larger ones are weights, of which a checkpoint has 700 GB: they
count by the header that places their tensors, by size and by modification time, which differs from
copy to copy and is in ``times.json``. Nothing here imports torch.
"""

from __future__ import annotations

import importlib.metadata
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import glmc_runtime
from glmc.artifact.records import record
from glmc.config import TARGETS, CompileOptions
from glmc.errors import CheckpointError
from glmc.plain_file import open_plain
from glmc_runtime.entry_points import entries
from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.records import misfit

NAME = "inputs.json"
SCHEMA_VERSION = 1
PACKAGES = ("glmc", "glmc-runtime", "torch", "transformers", "tokenizers")
HASHED_BYTES = 64 << 20
"""Files up to this size are hashed whole: a tokenizer of the family has 20 MiB."""
_PIECE = 1 << 20
_LARGEST_HEADER = 128 << 20
_FOLDER = "additional_chat_templates"  # the one folder of a checkpoint that is read


@dataclass(frozen=True)
class InputFile:
    """``sha256`` is of the bytes, or of the safetensors header of a file with ``whole`` false;
    '' for a large file that has none, and for one that can't be read."""

    size: int
    sha256: str
    whole: bool


@dataclass(frozen=True)
class Inputs:
    """``options`` are those of the compile but ``force``, as they were asked for; ``extensions``
    the passes and the target of other distributions among them. ``sources`` is a hash of the
    files of glmc and its runtime, ``pipeline`` that of the file of this option."""

    model: str
    files: dict[str, InputFile]
    options: dict[str, Any]
    pipeline: str
    extensions: dict[str, str]
    versions: dict[str, str]
    sources: str
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class ReadInputs:
    """The inputs with the modification times of the files that are not hashed, in nanoseconds."""

    inputs: Inputs
    modified: dict[str, int] = field(default_factory=dict)


def read_inputs(directory: Path | None, name: str, options: CompileOptions) -> ReadInputs:
    """What a compile of a checkpoint, or of the preset ``name``, would be made from.

    Raises :class:`CheckpointError` for a file that can't be read.
    """
    files: dict[str, InputFile] = {}
    modified: dict[str, int] = {}
    try:
        for own, path in _files(directory):
            files[own], time = _file(path)
            if not files[own].whole:
                modified[own] = time
        pipeline = "" if options.pipeline is None else _hash_of(Path(options.pipeline))
    except OSError as error:
        raise CheckpointError(
            f"a file can't be read: {error.strerror or error}",
            place=str(error.filename or directory),
            remedy="check that it is there and may be read",
        ) from error
    plain = {key: value for key, value in asdict(options).items() if key != "force"}
    inputs = Inputs(
        model=name,
        files=files,
        options=json.loads(json.dumps(plain)),
        pipeline=pipeline,
        extensions=_extensions(options),
        versions={package: _version(package) for package in PACKAGES},
        sources=sources_hash(),
    )
    return ReadInputs(inputs, modified)


@cache
def sources_hash() -> str:
    """Hash of every file of glmc and of its runtime, which an editable install may change; taken
    once a process, whose modules do not change either."""
    digest = sha256()
    for root in (Path(__file__).parents[1], Path(glmc_runtime.__file__).parent):
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(root.parent).as_posix()}\0".encode())
                digest.update(sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def inputs_json(inputs: Inputs) -> dict[str, Any]:
    return asdict(inputs)


def inputs_from_json(data: Any, place: str) -> Inputs:
    """Raises :class:`ArtifactError` for data of another form."""
    if not isinstance(data, dict) or data.get("schema_version") != SCHEMA_VERSION:
        raise _unusable(place, f"it has no schema_version {SCHEMA_VERSION}")
    try:
        inputs: Inputs = record(data, Inputs)
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(place, repr(error)) from error
    problem = misfit(inputs, Inputs, "inputs")
    if problem is not None:
        raise _unusable(place, problem)
    return inputs


def _files(directory: Path | None) -> Iterator[tuple[str, Path]]:
    """Every file that a compile may look at, none of a preset: no hidden one, no model card."""
    if directory is None:
        return
    folder = directory / _FOLDER
    for path in sorted([*directory.iterdir(), *(folder.iterdir() if folder.is_dir() else ())]):
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".md":
            yield path.relative_to(directory).as_posix(), path


def _file(path: Path) -> tuple[InputFile, int]:
    """The file, and its modification time. One that can't be read is left to whoever needs it."""
    status = path.stat()
    try:
        if status.st_size <= HASHED_BYTES:
            return InputFile(status.st_size, _hash_of(path), True), 0
        digest = _header_hash(path)
    except OSError:
        digest = ""
    return InputFile(status.st_size, digest, False), status.st_mtime_ns


def _hash_of(path: Path) -> str:
    digest = sha256()
    with open_plain(path) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _header_hash(path: Path) -> str:
    """Of the header of a safetensors file; '' for another file."""
    with open_plain(path) as file:
        length = file.read(8)
        size = struct.unpack("<Q", length)[0]
        if path.suffix != ".safetensors" or size > _LARGEST_HEADER:
            return ""
        return sha256(length + file.read(size)).hexdigest()


def _extensions(options: CompileOptions) -> dict[str, str]:
    """Passes of other distributions that may run, and the target, with their distributions."""
    named: dict[str, str] = {}
    passes = entries("glmc.passes") if options.passes_on or options.pipeline else {}
    for name, claimed in passes.items():
        if name in options.passes_on or options.pipeline:
            named[f"pass {name}"] = ", ".join(each.distribution for each in claimed)
    if options.target not in TARGETS:
        claimed = entries("glmc.targets").get(options.target, ())
        named[f"target {options.target}"] = ", ".join(each.distribution for each in claimed)
    return named


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _unusable(place: str, problem: str) -> ArtifactError:
    return ArtifactError(
        f"{NAME} is not well formed: {problem}", place=place, remedy="compile the model again"
    )


def differences(before: Inputs, now: Inputs) -> Iterator[str]:
    """What differs, in a few words each."""
    for name in _differing(before.files, now.files):
        yield name
    for name in _differing(before.options, now.options):
        yield f"option {name}"
    if before.pipeline != now.pipeline:
        yield "the pipeline file"
    for name in _differing(before.extensions, now.extensions):
        yield name
    for name in _differing(before.versions, now.versions):
        yield f"the version of {name}"
    if before.sources != now.sources:
        yield "the sources of glmc"
    if before.model != now.model:
        yield "the name of the model"


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]

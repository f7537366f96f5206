"""``inputs.json``: what an artifact was made from, so that the next compile can be spared.

The model's files, the options, the versions and the compiler's own sources. Files of up to 64 MiB
count by the hash of their bytes. Larger ones are weights, of which a checkpoint has 700 GB: they
count by the header that places their tensors, by size and by the times of their last change, which
differ from copy to copy and are in ``times.json``. Nothing here imports torch.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

import glmc_runtime
from glmc.artifact.records import record
from glmc.config import TARGETS, CompileOptions
from glmc.errors import CheckpointError
from glmc.plain_file import open_plain
from glmc.presets.names import place_of, require_model
from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.records import misfit
from glmc_runtime.package.entry_points import entries

NAME = "inputs.json"
SCHEMA_VERSION = 1
PACKAGES = ("glmc", "glmc-runtime", "torch", "transformers", "tokenizers")
HASHED_BYTES = 64 << 20
"""Files up to this size are hashed whole: a tokenizer of the family has 20 MiB."""
NOT_STORED = ("force", "pipeline")  # options that the same artifact may come of
_EMULATOR = "glmc_kunlun_emulator"
_PIECE = 1 << 20
_LARGEST_HEADER = 128 << 20
_NAMED = 3
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
    """``options`` are those of the compile but ``force`` and ``pipeline``, as they were asked for;
    ``extensions`` the passes and the target of other distributions among them. ``sources`` is a
    hash of the files of glmc, its runtime and the emulator, ``pipeline`` that of the file of this
    option, whatever its path. ``config`` is config.json as it was read, whose hash is among the
    files, or that of a preset: a serving engine holds it against the checkpoint that it loads."""

    model: str
    files: dict[str, InputFile]
    options: dict[str, Any]
    pipeline: str
    extensions: dict[str, str]
    versions: dict[str, str]
    sources: str
    config: dict[str, Any] | None = None
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class ReadInputs:
    """The inputs with the times at which the files that are not hashed were last written, and last
    changed in any way (mtime and ctime), in nanoseconds. A file may be given the mtime of another
    one; its ctime is the system's alone."""

    inputs: Inputs
    modified: dict[str, tuple[int, int]] = field(default_factory=dict)


def inputs_of_model(model: str | Path, options: CompileOptions) -> ReadInputs:
    """:func:`read_inputs` of a model as it is named; raises :class:`ConfigError` for none."""
    require_model(model)
    directory, name = place_of(model)
    return read_inputs(directory, name, options)


def require_unchanged(before: ReadInputs, directory: Path | None, options: CompileOptions) -> None:
    """Raise :class:`CheckpointError` when a file is another one than when the inputs were read:
    then nobody knows which of the two the compile has seen."""
    now = read_inputs(directory, before.inputs.model, options)
    names = changes(before.inputs, before.modified, now)
    if names:
        raise CheckpointError(
            "files changed while they were compiled",
            place=str(directory or options.pipeline),
            expected="what was there when the compile began",
            found=f"changed since: {some_of(names)}",
            remedy="compile again when nothing writes to them any more",
        )


def changes(before: Inputs, modified: Mapping[str, tuple[int, int]], now: ReadInputs) -> list[str]:
    """What differs, in a few words each; ``modified`` are the times that belong to ``before``,
    which are only looked at where nothing else differs."""
    return list(differences(before, now.inputs)) or [
        name for name, times in now.modified.items() if modified.get(name) != times
    ]


def some_of(names: Sequence[str]) -> str:
    """The first of the names, and how many there are besides."""
    more = len(names) - _NAMED
    return f"{', '.join(names[:_NAMED])}{f' and {more} more' if more > 0 else ''}"


def read_inputs(directory: Path | None, name: str, options: CompileOptions) -> ReadInputs:
    """What a compile of a checkpoint, or of the preset ``name``, would be made from.

    Raises :class:`CheckpointError` for a file that can't be read.
    """
    files: dict[str, InputFile] = {}
    modified: dict[str, tuple[int, int]] = {}
    try:
        for own, path in _files(directory):
            files[own], times = _file(path)
            if not files[own].whole:
                modified[own] = times
    except OSError as error:
        raise CheckpointError(
            f"a file can't be read: {error.strerror or error}",
            place=str(error.filename or directory),
            remedy="check that it is there and may be read",
        ) from error
    plain = {key: value for key, value in asdict(options).items() if key not in NOT_STORED}
    inputs = Inputs(
        model=name,
        files=files,
        options=json.loads(json.dumps(plain)),
        pipeline=_pipeline_hash(options),
        extensions=_extensions(options),
        versions={package: _version(package) for package in PACKAGES},
        sources=sources_hash(),
        config=_config(directory, name),
    )
    return ReadInputs(inputs, modified)


@cache
def sources_hash() -> str:
    """Hash of every file of glmc, its runtime and the emulator, which an editable install may
    change; taken once a process, when inputs are first read.

    The command line reads them before it imports what computes, so that a file that is edited
    afterwards has another hash in the next process. A Python process that had imported glmc before
    the edit does not know of it.
    """
    digest = sha256()
    roots = [Path(__file__).parents[1], Path(glmc_runtime.__file__).parent]
    emulator = importlib.util.find_spec(_EMULATOR)
    if emulator is not None and emulator.origin is not None:
        roots.append(Path(emulator.origin).parent)
    for root in roots:
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


def _config(directory: Path | None, name: str) -> dict[str, Any] | None:
    """None for a file that is no JSON object: whoever needs it says so."""
    try:
        if directory is None:
            text = resources.files("glmc.presets").joinpath(f"{name}.json").read_text()
            data = json.loads(text)["config"]
        else:
            data = json.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError, KeyError):
        return None
    return data if isinstance(data, dict) else None


def _files(directory: Path | None) -> Iterator[tuple[str, Path]]:
    """Every file that a compile may look at, none of a preset: no hidden one, no model card."""
    if directory is None:
        return
    folder = directory / _FOLDER
    for path in sorted([*directory.iterdir(), *(folder.iterdir() if folder.is_dir() else ())]):
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".md":
            yield path.relative_to(directory).as_posix(), path


def _file(path: Path) -> tuple[InputFile, tuple[int, int]]:
    """The file, and its times. One that can't be read is left to whoever needs it."""
    status = path.stat()
    times = (status.st_mtime_ns, status.st_ctime_ns)
    try:
        if status.st_size <= HASHED_BYTES:
            return InputFile(status.st_size, _hash_of(path), True), times
        digest = _header_hash(path)
    except OSError:
        digest = ""
    return InputFile(status.st_size, digest, False), times


def _hash_of(path: Path) -> str:
    digest = sha256()
    with open_plain(path) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _pipeline_hash(options: CompileOptions) -> str:
    """'' without such a file; whoever needs one that can't be read says so."""
    try:
        return "" if options.pipeline is None else _hash_of(Path(options.pipeline))
    except OSError:
        return "unreadable"


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
    if before.model != now.model:
        yield "the name of the model"
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


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]

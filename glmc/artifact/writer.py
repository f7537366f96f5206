"""Write an artifact directory: all of it or nothing.

Everything goes into a sibling directory ``.NAME.partial-*`` first, the manifest last; after fsync
one rename puts it in place. What a crash leaves behind never loads: nothing does under such a name.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from glmc.artifact.check import check_plans
from glmc.artifact.destination import check_destination
from glmc.artifact.disk import disk_error
from glmc.artifact.inputs import NAME as INPUTS
from glmc.artifact.made import MadeOf, check_file, file_json, file_of
from glmc.artifact.packing import Packer, Progress, Tally, rank_folder, shard_name
from glmc.artifact.partial import partial_directory
from glmc.artifact.recipes import is_stored
from glmc.artifact.replace import put_in_place, sync_directory
from glmc.errors import PackError
from glmc.ir.program import ModelShape
from glmc.ir.recipe import Weight
from glmc.weights.checkpoint import Checkpoint
from glmc.weights.engine import HandedOver
from glmc.weights.flat import CHUNK_BYTES
from glmc.weights.safetensors_writer import SHARD_BYTES, TensorSpec, file_size, plan_shards
from glmc.weights.source import WeightSource
from glmc_runtime.format.artifact_files import MANIFEST, TIMES, largest_size
from glmc_runtime.format.cache import CacheSpec
from glmc_runtime.format.manifest import (
    ONE_RANK,
    FileEntry,
    Guards,
    Limits,
    Manifest,
    ModelFacts,
    PhaseEntry,
    Ranks,
    WeightEntry,
    manifest_to_json,
)
from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.format.plan import PhasePlan
from glmc_runtime.format.plan_json import phase_to_json
from glmc_runtime.format.values import VALUES, Values, values_to_json


@dataclass(frozen=True)
class ManifestParts:
    """What the caller knows of the manifest; the writer adds weights and files."""

    target: str
    dtype: str
    abi_profile: str | None
    versions: Mapping[str, str]
    model: ModelFacts
    cache: CacheSpec
    limits: Limits
    guards: Guards
    phases: tuple[PhaseEntry, ...]
    ranks: Ranks = ONE_RANK
    deterministic: str | None = None


def model_facts(shape: ModelShape) -> ModelFacts:
    """The part of a model's shape that the runtime is told."""
    return ModelFacts(
        name=shape.name,
        architecture=shape.architecture,
        layers=shape.layers,
        vocabulary=shape.vocabulary,
        hidden=shape.hidden,
        query_heads=shape.query_heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        parameters=shape.parameters,
        maximum_positions=shape.maximum_positions,
        eos_token_ids=shape.eos_token_ids,
    )


def write_artifact(
    path: Path,
    *,
    parts: ManifestParts,
    plans: Mapping[PhaseKey, PhasePlan],
    weights: Sequence[Weight],
    source: WeightSource | None,
    checkpoint: Checkpoint | None = None,
    tokenizer: Mapping[str, bytes] | None = None,
    tables: Mapping[str, bytes] | None = None,
    report: Mapping[str, Any] | None = None,
    history: Mapping[str, Any] | None = None,
    values: Values | None = None,
    inputs: Mapping[str, Any] | None = None,
    times: Callable[[], Mapping[str, Any]] | None = None,
    check: Callable[[], None] = lambda: None,
    force: bool = False,
    progress: Progress = lambda progress: None,
    shard_bytes: int = SHARD_BYTES,
    chunk_bytes: int = CHUNK_BYTES,
) -> Manifest:
    """Write the artifact and return its manifest.

    Without a ``source`` the weights are listed but not written. Of those that ``checkpoint``, which
    is the source then, has in its files, only recipes and hashes are written; of those that an
    engine will hand over to a source without values, only recipes. An existing artifact is
    replaced, in one step, only with ``force``; anything else at ``path`` is never touched.
    ``progress`` is told of each piece of a weight that was written; ``check`` is called when all of
    them are, before the manifest is written, and ``times`` last. Raises :class:`PackError`, after
    which nothing new is left at ``path``, :class:`CheckpointError` from the source, and
    :class:`InternalError` for a plan that the runtime would refuse.
    """
    path = Path(path)
    check_destination(path, force)
    _check_names(weights)
    made_of = source if isinstance(source, HandedOver) else checkpoint
    stored = [weight for weight in weights if made_of is not None and is_stored(weight)]
    packed = [weight for weight in weights if made_of is None or not is_stored(weight)]
    shards = plan_shards(
        [TensorSpec(each.name, each.dtype, each.shape) for each in packed], shard_bytes
    )
    ranks = parts.ranks.count
    needed = ranks * sum(file_size(shard) for shard in shards) if source is not None else 0
    manifest = Manifest(
        **vars(parts),
        weights=_made(made_of, stored, ranks) | _entries(shards, ranks),
        weights_included=source is not None,
        files={},
    )
    check_plans(plans, manifest)
    with _disk_errors(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_space(path.parent, needed)
        # Inside as well: what the disk lacked is there again once the directory is removed.
        with partial_directory(path) as directory, _disk_errors(path, needed):
            files: dict[str, FileEntry] = {}
            _write_json_files(directory, files, plans, report or {}, history, values, inputs)
            _write_tokenizer(directory, files, tokenizer or {})
            for name, data in (tables or {}).items():
                files[name] = _write_bytes(directory / name, data)
            _check_sizes(files)
            if source is not None:
                tally = Tally(packed if checkpoint is None else weights, ranks, progress)
                if made_of is not None:
                    file = file_of(made_of)
                    content = file_json(made_of, stored, ranks, chunk_bytes, tally)
                    data = _json(content, indent=None)
                    (directory / file).parent.mkdir()
                    files[file] = _write_bytes(directory / file, data)
                    _check_sizes({file: files[file]})
                    check_file(file, data, manifest)
                packer = Packer(weights, source, ranks, chunk_bytes, tally)
                files.update(packer.write(directory, shards))
            check()
            manifest = replace(manifest, files=files)
            written = _write_bytes(directory / MANIFEST, _json(manifest_to_json(manifest)))
            _check_sizes({MANIFEST: written})
            if times is not None:
                _write_bytes(directory / TIMES, _json(times()))
            folders = [f"weights/{rank_folder(rank)}" for rank in range(ranks) if ranks > 1]
            folders += ["plans", "weights", "tokenizer/chat_templates", "tokenizer", "."]
            for name in folders:
                if (directory / name).is_dir():
                    sync_directory(directory / name)
            check_destination(path, force)  # again: packing takes long
            put_in_place(directory, path)
    return manifest


def _made(source: MadeOf | None, stored: Sequence[Weight], ranks: int) -> dict[str, WeightEntry]:
    if source is None:
        return {}
    return {
        each.name: WeightEntry(
            (file_of(source),) * ranks, str(each.dtype).removeprefix("torch."), each.shape
        )
        for each in stored
    }


def _entries(shards: Sequence[Sequence[TensorSpec]], ranks: int) -> dict[str, WeightEntry]:
    return {
        spec.name: WeightEntry(
            tuple(shard_name(number, len(shards), rank, ranks) for rank in range(ranks)),
            str(spec.dtype).removeprefix("torch."),
            spec.shape,
        )
        for number, shard in enumerate(shards, 1)
        for spec in shard
    }


def _check_names(weights: Sequence[Weight]) -> None:
    counts = Counter(weight.name for weight in weights)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise PackError("weights share a name", found=", ".join(twice), remedy="report this")


def _check_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise PackError(
            "the disk has too little room for the weights",
            place=str(directory),
            expected=f"{needed} bytes",
            found=f"{free} bytes free",
            remedy="free some space or choose an output path on another disk",
        )


def _check_sizes(files: Mapping[str, FileEntry]) -> None:
    """What the runtime would refuse to read is not written."""
    for name, entry in files.items():
        if entry.size > largest_size(name):
            raise PackError(
                "a file is too large for an artifact",
                place=name,
                expected=f"at most {largest_size(name)} bytes",
                found=f"{entry.size} bytes",
                remedy="look into the checkpoint's file of that name, or report this",
            )


@contextmanager
def _disk_errors(path: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, path, needed) from error


def _write_json_files(
    root: Path,
    files: dict[str, FileEntry],
    plans: Mapping[PhaseKey, PhasePlan],
    report: Mapping[str, Any],
    history: Mapping[str, Any] | None,
    values: Values | None,
    inputs: Mapping[str, Any] | None,
) -> None:
    (root / "plans").mkdir()
    contents = {key.file: _json(phase_to_json(plan)) for key, plan in plans.items()}
    contents["report.json"] = _json(report)
    if history is not None:
        contents["history.json"] = _json(history, indent=None)
    if values is not None:
        contents[VALUES] = _json(values_to_json(values), indent=None)
    if inputs is not None:
        contents[INPUTS] = _json(inputs)
    for name, data in contents.items():
        files[name] = _write_bytes(root / name, data)


def _write_tokenizer(
    root: Path, files: dict[str, FileEntry], contents: Mapping[str, bytes]
) -> None:
    for name, data in contents.items():
        path = root / "tokenizer" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        files[f"tokenizer/{name}"] = _write_bytes(path, data)


def _json(data: Any, indent: int | None = 1) -> bytes:
    return (json.dumps(data, indent=indent, ensure_ascii=False) + "\n").encode()


def _write_bytes(path: Path, data: bytes) -> FileEntry:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(sha256(data).hexdigest(), len(data))

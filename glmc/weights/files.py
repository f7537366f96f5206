"""Files of a directory that hold the weights: those that transformers would load, in its order.

``model.safetensors`` counts before ``model.safetensors.index.json``, whatever else is there. Of an
index transformers reads every tensor of every file that it names; a tensor in two files is taken
from the last by name, so two files must agree on it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

from glmc.errors import CheckpointError
from glmc.plain_file import open_plain, read_plain
from glmc.weights.foreign import no_weights, refuse_adapter, refuse_quantising_files
from glmc.weights.safetensors_header import FileTensor, read_header, refuse_pointer

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
_CHUNK = 16 << 20


@dataclass(frozen=True)
class WeightFiles:
    """The tensors by name, and what is there beside them and is not read."""

    tensors: dict[str, FileTensor]
    unread: tuple[str, ...] = ()


def read_files(directory: Path) -> WeightFiles:
    """All tensors of a checkpoint directory; raises :class:`CheckpointError`."""
    refuse_adapter(directory)
    refuse_quantising_files(directory)
    index = directory / INDEX
    if (directory / SINGLE).exists():
        tensors = read_header(directory / SINGLE)
        return WeightFiles(tensors, _unread(directory, {SINGLE}))
    places = _places(index) if index.is_file() else {}
    names = sorted(set(places.values())) if index.is_file() else _whole_set(directory)
    tensors = _merged(directory, names)
    lost = [name for name in places if name not in tensors]
    if lost:
        raise CheckpointError(
            "files lack tensors that the index places there",
            place=str(index),
            found=", ".join(f"{name} in {places[name]}" for name in lost),
            remedy="download the files and the index again",
        )
    return WeightFiles(tensors, _unread(directory, {INDEX, *names}))


def _unread(directory: Path, read: Iterable[str]) -> tuple[str, ...]:
    files = {path.name for path in directory.glob("*.safetensors")}
    files |= {INDEX} if (directory / INDEX).is_file() else set()
    return tuple(sorted(files - set(read)))


def _whole_set(directory: Path) -> list[str]:
    """Numbered files without an index, when none of them is missing."""
    numbered = {
        match: path.name
        for path in directory.glob("*.safetensors")
        if (match := _SHARD.fullmatch(path.name))
    }
    totals = {int(match[2]) for match in numbered}
    numbers = sorted(int(match[1]) for match in numbered)
    if len(totals) != 1 or numbers != list(range(1, max(totals) + 1)):
        raise no_weights(directory)
    return sorted(numbered.values())


def _places(index: Path) -> dict[str, str]:
    """The file of each tensor; all of the files are there."""
    try:
        refuse_pointer(index)
        data = json.loads(read_plain(index).decode("utf-8"))
        places: dict[str, str] = {name: str(file) for name, file in data["weight_map"].items()}
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the index of the weights can't be read: {error!r}",
            place=str(index),
            expected="a JSON object with 'weight_map'",
            remedy="download the index again",
        ) from error
    names = sorted(set(places.values()))
    absent = [name for name in names if not (index.parent / name).is_file()]
    outside = [name for name in names if Path(name).name != name]
    if absent or outside or not names:
        raise CheckpointError(
            "the index names files that are not in the directory",
            place=str(index),
            expected=f"{len(names)} files, all beside the index",
            found=", ".join(outside or absent) or "no file in 'weight_map'",
            remedy="complete the download: hf download REPOSITORY --local-dir DIR",
        )
    return places


def _merged(directory: Path, names: list[str]) -> dict[str, FileTensor]:
    tensors: dict[str, FileTensor] = {}
    for file in names:
        for name, tensor in read_header(directory / file).items():
            if name in tensors and not same_content(tensors[name], tensor):
                raise CheckpointError(
                    f"tensor '{name}' is in two files with two contents",
                    place=str(directory),
                    found=f"{tensors[name].path.name} and {file}",
                    remedy="remove the file that does not belong, and its entries from "
                    f"{INDEX}; transformers would take the last",
                )
            tensors[name] = tensor
    return tensors


def same_content(first: FileTensor, second: FileTensor) -> bool:
    """Whether two tensors of files have one shape, dtype and the same bytes."""
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    left = prod(first.shape) * first.dtype.itemsize
    with open_plain(first.path) as ours, open_plain(second.path) as other:
        ours.seek(first.begin)
        other.seek(second.begin)
        while left > 0:
            size = min(left, _CHUNK)
            if ours.read(size) != other.read(size):
                return False
            left -= size
    return True

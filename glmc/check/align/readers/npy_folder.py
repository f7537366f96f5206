"""Folders of dumped tensors, a file each: msprobe's, and files that are named by our keys.

A folder is a whole dump (``step0/rank0/...``), one step or one rank of it, or just files. Of
several ranks the lowest is read: what others hold are other parts of the same tensors. Where there
is a ``dump.json`` it says which tensors there are, in order; other files are left alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from glmc.check.align.readers.array_files import SUFFIXES, described, load
from glmc.check.align.readers.msprobe_names import SECTIONS, Calls, entry_key, file_key
from glmc.plain_file import read_plain
from glmc_runtime.errors import RecordError
from glmc_runtime.format.dtypes import DTYPES
from glmc_runtime.format.tensor_key import TensorKey, parse_key
from glmc_runtime.record.tensors import RecordedTensor, Statistics

_DUMP, _CONSTRUCT, _TENSORS = "dump.json", "construct.json", "dump_tensor_data"
_STEP = re.compile(r"(?:step)?(\d+)")
_RANK = re.compile(r"(?:rank|proc)(\d*)")


class NpyFolder:
    """A :class:`~glmc_runtime.record.tensors.Record`. ``facts`` has ``ranks``: how many there are
    where there are several."""

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self.facts: Mapping[str, Any] = {}
        try:
            places = list(self._places(path))
            self._tensors = [
                tensor for step, place in places for tensor in _tensors_of(place, step)
            ]
        except OSError as error:
            raise RecordError(
                "the folder can't be read", place=str(path), found=str(error)
            ) from error
        if not self._tensors:
            raise RecordError(
                "the folder holds no dumped tensors",
                place=str(path),
                expected=f"{_DUMP}, or {' and '.join(SUFFIXES)} named as msprobe does, or by keys",
                remedy="pass the folder that msprobe wrote, or one step of it",
            )

    def tensors(self) -> Iterator[RecordedTensor]:
        """All tensors, by step and in order of execution, as far as the dump says it."""
        for order, tensor in enumerate(self._tensors):
            yield replace(tensor, order=order)

    def _places(self, path: Path) -> Iterator[tuple[int, Path]]:
        """The folders that hold a step, each with its number."""
        steps = _numbered(path, _STEP)
        for number, folder in steps or [(_own_step(path), path)]:
            ranks = _numbered(folder, _RANK)
            if len(ranks) > 1:
                self.facts = {"read_ranks": len(ranks)}
            yield number, ranks[0][1] if ranks else folder


def _numbered(path: Path, pattern: re.Pattern[str]) -> list[tuple[int, Path]]:
    """Folders of a folder whose names are a number after a word, in the order of the numbers."""
    found = [
        (int(match[1] or 0), each)
        for each in path.iterdir()
        if (match := pattern.fullmatch(each.name)) and each.is_dir()
    ]
    return sorted(found)


def _own_step(path: Path) -> int:
    """The step that a folder, or the one that it is in, is named after."""
    for folder in (path.resolve(), path.resolve().parent):
        if found := re.fullmatch(r"step(\d+)", folder.name):
            return int(found[1])
    return 0


def _tensors_of(place: Path, step: int) -> Iterator[RecordedTensor]:
    files = place / _TENSORS if (place / _TENSORS).is_dir() else place
    about = next((each for each in (place, place.parent) if (each / _DUMP).is_file()), None)
    if about is not None and (about == place or place.name == _TENSORS):
        yield from _of_dump(about, files, step)
    else:
        yield from _of_files(files, step)


def _of_dump(about: Path, files: Path, step: int) -> Iterator[RecordedTensor]:
    """The tensors that ``dump.json`` names."""
    data = _json(about / _DUMP).get("data")
    if not isinstance(data, dict):
        raise _other_form(about / _DUMP, "an object 'data'")
    there = (about / _CONSTRUCT).is_file()
    calls = Calls(_json(about / _CONSTRUCT) if there else {})
    for entry, sections in data.items():
        if not isinstance(sections, dict):
            continue
        for section, kind in SECTIONS.items():
            for name, leaf in _leaves(sections.get(section), ""):
                key = entry_key(entry, kind, name, calls.parent(entry))
                if key is not None:
                    yield _of_leaf(leaf, calls.counted(entry, key), files, step)


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tensors of a section, each with its place or its name."""
    if isinstance(value, dict) and "shape" in value and "dtype" in value:
        yield name or "0", value
    elif isinstance(value, (list, dict)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in items:
            yield from _leaves(each, f"{name}.{key}" if name else str(key))


def _of_leaf(leaf: Mapping[str, Any], key: TensorKey, files: Path, step: int) -> RecordedTensor:
    shape = leaf["shape"]
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise _other_form(files.parent / _DUMP, f"a shape of {key}")
    path = _file_of(leaf, files)
    return RecordedTensor(
        step=step,
        order=0,
        key=key,
        dtype=_dtype(str(leaf["dtype"])),
        shape=tuple(shape),
        statistics=None if path is not None else _statistics(leaf, shape),
        load=None if path is None else partial(load, path),
    )


def _file_of(leaf: Mapping[str, Any], files: Path) -> Path | None:
    """The file with the elements: in the folder itself, whatever ``data_name`` says."""
    name = leaf.get("data_name")
    if not isinstance(name, str) or Path(name).name != name or Path(name).suffix not in SUFFIXES:
        return None
    path = files / name
    return path if path.is_file() else None


def _dtype(name: str) -> str:
    """``bfloat16`` of torch's ``torch.bfloat16`` and MindSpore's ``BFloat16``."""
    plain = name.removeprefix("torch.").lower()
    return plain if plain in DTYPES else name


def _statistics(leaf: Mapping[str, Any], shape: list[int]) -> Statistics | None:
    """What is known without elements; the deviation follows from the L2 norm and the mean."""
    values = [leaf.get(name) for name in ("Min", "Max", "Mean", "Norm")]
    numbers = [float(each) for each in values if isinstance(each, (int, float))]
    count = math.prod(shape)
    if len(numbers) < len(values) or not count:
        return None
    minimum, maximum, mean, norm = numbers
    variance = norm * norm / count - mean * mean
    return Statistics(minimum, maximum, mean, math.sqrt(max(variance, 0.0)), 0, 0)


def _of_files(files: Path, step: int) -> Iterator[RecordedTensor]:
    """The tensors of files whose names alone say what they are, numbers in their order."""
    paths = [each for each in files.iterdir() if each.suffix in SUFFIXES]
    for path in sorted(paths, key=lambda each: _natural(each.name)):
        key = file_key(path.stem) or parse_key(path.stem)
        if key is not None:
            dtype, shape = described(path)
            yield RecordedTensor(step, 0, key, dtype, shape, None, load=partial(load, path))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_plain(path))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(
            f"{path.name} can't be read", place=str(path), found=str(error)[:200]
        ) from error
    if not isinstance(found, dict):
        raise _other_form(path, "an object")
    return found


def _other_form(path: Path, expected: str) -> RecordError:
    return RecordError(
        f"{path.name} has another form than msprobe's", place=str(path), expected=expected
    )

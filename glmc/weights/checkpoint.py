"""Read a Hugging Face checkpoint by the parameter names of the traced module, piece by piece.

No file is ever read whole: the headers say where each tensor is, and :meth:`Checkpoint.read`
reads only the bytes that are asked for.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from glmc.errors import CheckpointError
from glmc.presets.fields import ModelFields
from glmc.presets.parameters import parameter_shapes
from glmc.weights.file_ranges import read_range
from glmc.weights.files import WeightFiles, read_files, same_content
from glmc.weights.fit import Problem, misfits, missing, refuse, surplus
from glmc.weights.layout import expert_parts
from glmc.weights.safetensors_header import FileTensor
from glmc.weights.source import FileRange

_PREFIX, _HEAD, _EMBEDDING = "model.", "lm_head.weight", "model.embed_tokens.weight"
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


@dataclass(frozen=True)
class _Location:
    """A parameter as elements of file tensors, one after the other in row-major order.

    ``dtype`` holds the values of every part exactly, whichever dtypes these are stored in.
    ``ends`` are the running sums of the parts' element counts.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: tuple[FileTensor, ...]
    ends: tuple[int, ...] = field(default=())

    @staticmethod
    def of(shape: tuple[int, ...], parts: tuple[FileTensor, ...]) -> _Location:
        ends = tuple(accumulate(prod(part.shape) for part in parts))
        dtype = functools.reduce(torch.promote_types, (part.dtype for part in parts))
        return _Location(shape, dtype, parts, ends)


class Checkpoint:
    """A :class:`~glmc.weights.source.WeightSource` over the safetensors files of a directory.

    ``ignored`` names the tensors that are left out on purpose: multi-token prediction layers,
    stored inverse frequencies, a stored ``lm_head`` of a model that ties it to the embedding.
    ``unread`` names safetensors files that transformers does not load either. ``tensors`` are
    those of the files, by the names that they have there.
    """

    def __init__(
        self,
        directory: Path,
        locations: Mapping[str, _Location],
        ignored: tuple[str, ...],
        unread: tuple[str, ...],
        tensors: Mapping[str, FileTensor],
    ) -> None:
        self.directory = directory
        self.ignored = ignored
        self.unread = unread
        self.tensors = tensors
        self._locations = dict(locations)

    @property
    def description(self) -> str:
        return f"checkpoint {self.directory.name}"

    @property
    def remarks(self) -> Iterator[str]:
        """What is in the directory and is no part of the compiled model."""
        if self.unread:
            yield f"weights not read, as transformers does not: {', '.join(self.unread)}"
        extra = [name for name in self.ignored if _LAYER.match(name)]
        if extra:
            predicting = any(name.endswith(".eh_proj.weight") for name in extra)
            layers = sorted({int(match[1]) for name in extra if (match := _LAYER.match(name))})
            yield (
                f"{len(extra)} tensors of layer {', '.join(map(str, layers))} not read: "
                + ("multi-token prediction" if predicting else "beyond num_hidden_layers")
            )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._locations)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._location(name).shape

    def dtype(self, name: str) -> torch.dtype:
        return self._location(name).dtype

    def read(self, name: str, begin: int, count: int) -> Tensor:
        result = torch.empty(count, dtype=self.dtype(name))
        filled = 0
        for part in self.ranges(name, begin, count):
            length = part.size // part.dtype.itemsize
            _read_into(result[filled : filled + length], part)
            filled += length
        return result

    def ranges(self, name: str, begin: int, count: int) -> list[FileRange]:
        location = self._location(name)
        found = []
        part = bisect_right(location.ends, begin)
        end = begin + count
        while begin < end:
            first = location.ends[part - 1] if part else 0
            length = min(end, location.ends[part]) - begin
            if length:
                found.append(location.parts[part].range(begin - first, length))
            begin += length
            part += 1
        return found

    def parts(self, name: str) -> tuple[FileTensor, ...]:
        """The tensors of the files that a parameter is, one after the other."""
        return self._location(name).parts

    def _location(self, name: str) -> _Location:
        location = self._locations.get(name)
        if location is None:
            raise CheckpointError(
                f"the traced model has a parameter '{name}' that no file holds",
                place=str(self.directory),
                remedy="report this: the checkpoint was complete for its config.json",
            )
        return location


def open_checkpoint(
    directory: Path, fields: ModelFields, files: WeightFiles | None = None
) -> Checkpoint:
    """Map every parameter of the model to the files; see :class:`CheckpointError`.

    ``files`` are those of the directory where its headers were read already.

    Parameters are found under their own name; stacked experts are made of per-expert tensors, and
    per-expert parameters (transformers 4.57) of stacked ones. All missing, surplus, misshapen and
    quantised tensors are listed in one error, with a remedy for each kind.
    """
    files = files or read_files(directory)
    tensors = _with_names_of_the_model(files.tensors)
    wanted = parameter_shapes(fields)
    ignored, present = _split_ignored(tensors, fields)
    if fields.tie_word_embeddings:
        _tie(tensors, present, directory)
    problems: list[Problem] = []
    locations: dict[str, _Location] = {}
    used: set[str] = set()
    for name, shape in wanted.items():
        parts = [(name, shape)] if name in present else expert_parts(name, shape)
        used.update(part for part, _ in parts)
        absent = [part for part in parts if part[0] not in present]
        problems += [missing(part, fields) for part in absent]
        for part in parts:
            if part not in absent:
                problems += misfits(part, present[part[0]], fields)
        if not absent:
            locations[name] = _Location.of(shape, tuple(present[part] for part, _ in parts))
    problems += [surplus(tensor, fields) for name, tensor in present.items() if name not in used]
    if problems:
        expected = f"the {len(wanted)} parameters of {fields.architecture}"
        raise refuse(problems, present, directory, fields, expected, files.unread)
    if fields.tie_word_embeddings:
        locations["lm_head.weight"] = locations[_EMBEDDING]
    for name, location in list(locations.items()):
        locations.update(_single_experts(name, location))
    return Checkpoint(directory, locations, tuple(sorted(ignored)), files.unread, files.tensors)


def _with_names_of_the_model(tensors: Mapping[str, FileTensor]) -> dict[str, FileTensor]:
    """The trunk saved alone has no 'model.' before its names; transformers adds it."""
    trunk = ("layers.", "embed_tokens.", "norm.")
    return {
        _PREFIX + name
        if name.startswith(trunk) and _PREFIX + name not in tensors
        else name.removeprefix(_PREFIX)
        if name == _PREFIX + _HEAD and _HEAD not in tensors
        else name: tensor
        for name, tensor in tensors.items()
    }


def _tie(
    tensors: Mapping[str, FileTensor], present: dict[str, FileTensor], directory: Path
) -> None:
    """One matrix for embedding and head, under whichever name it is stored."""
    head, embedding = tensors.get(_HEAD), present.get(_EMBEDDING)
    if head is not None and embedding is None:
        present[_EMBEDDING] = head
    elif head is not None and embedding is not None and not same_content(head, embedding):
        raise CheckpointError(
            "tie_word_embeddings is true, and the files hold a head of another content",
            place=str(directory),
            expected=f"no {_HEAD}, or the same values as {_EMBEDDING}",
            found=f"{_HEAD} in {head.path.name}, {_EMBEDDING} in {embedding.path.name}",
            remedy="set tie_word_embeddings to false in config.json to use the head, as "
            "transformers 5 does, or remove it from the file",
        )


def _split_ignored(
    tensors: Mapping[str, FileTensor], fields: ModelFields
) -> tuple[set[str], dict[str, FileTensor]]:
    """Layers at or beyond ``num_hidden_layers`` predict further tokens, whatever a field says."""
    ignored = {
        name
        for name in tensors
        if ((match := _LAYER.match(name)) and int(match[1]) >= fields.num_hidden_layers)
        or name.endswith("rotary_emb.inv_freq")
        or (fields.tie_word_embeddings and name == _HEAD)
    }
    return ignored, {name: item for name, item in tensors.items() if name not in ignored}


def _single_experts(name: str, location: _Location) -> dict[str, _Location]:
    """Per-expert names of a stacked parameter, for modules of transformers 4.57."""
    parts = expert_parts(name, location.shape)
    if len(parts) < 2:
        return {}
    if len(location.parts) > 1:
        return {
            part: _Location.of(shape, (tensor,))
            for (part, shape), tensor in zip(parts, location.parts, strict=True)
        }
    stacked = location.parts[0]
    result, begin, first = {}, stacked.begin, stacked.first
    for part, shape in parts:
        view = replace(stacked, shape=shape, begin=begin, first=first)
        result[part] = _Location.of(shape, (view,))
        begin += prod(shape) * stacked.dtype.itemsize
        first += prod(shape)
    return result


def _read_into(target: Tensor, part: FileRange) -> None:
    if target.dtype != part.dtype:
        stored = torch.empty(target.shape, dtype=part.dtype)
        _read_into(stored, part)
        target.copy_(stored)
        return
    read_range(part, target.view(torch.uint8).numpy().data)

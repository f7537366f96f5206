"""Read a Hugging Face checkpoint by the parameter names of the traced module, piece by piece.

No file is ever read whole: the headers say where each tensor lies, and :meth:`Checkpoint.read`
reads only the bytes that are asked for.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from glmc.errors import CheckpointError, Lines
from glmc.plain_file import open_plain, read_plain
from glmc.presets.fields import ModelFields
from glmc.presets.parameters import parameter_shapes
from glmc.weights.layout import NamedShape, expert_parts
from glmc.weights.safetensors_header import FileTensor, read_header

INDEX = "model.safetensors.index.json"
# A wrong directory would list a hundred thousand names.
LISTED = 1000
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class _Location:
    """A parameter as elements of file tensors, one after the other in row-major order.

    ``ends`` are the running sums of the parts' element counts.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: tuple[FileTensor, ...]
    ends: tuple[int, ...] = field(default=())

    @staticmethod
    def of(shape: tuple[int, ...], parts: tuple[FileTensor, ...]) -> _Location:
        ends = tuple(accumulate(prod(part.shape) for part in parts))
        return _Location(shape, parts[0].dtype, parts, ends)


class Checkpoint:
    """A :class:`~glmc.weights.source.WeightSource` over the safetensors files of a directory.

    ``ignored`` names the tensors that are left out on purpose: multi-token prediction layers,
    stored inverse frequencies, a stored ``lm_head`` of a model that ties it to the embedding.
    """

    def __init__(
        self, directory: Path, locations: Mapping[str, _Location], ignored: tuple[str, ...]
    ) -> None:
        self.directory = directory
        self.ignored = ignored
        self._locations = dict(locations)

    @property
    def description(self) -> str:
        return f"checkpoint {self.directory.name}"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._locations)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._location(name).shape

    def dtype(self, name: str) -> torch.dtype:
        return self._location(name).dtype

    def read(self, name: str, begin: int, count: int) -> Tensor:
        location = self._location(name)
        result = torch.empty(count, dtype=location.dtype)
        filled = 0
        part = bisect_right(location.ends, begin)
        while filled < count:
            first = location.ends[part - 1] if part else 0
            offset = begin + filled - first
            length = min(count - filled, location.ends[part] - first - offset)
            _read_into(result[filled : filled + length], location.parts[part], offset)
            filled += length
            part += 1
        return result

    def _location(self, name: str) -> _Location:
        location = self._locations.get(name)
        if location is None:
            raise CheckpointError(
                f"the traced model has a parameter '{name}' that no file holds",
                place=str(self.directory),
                remedy="report this: the checkpoint was complete for its config.json",
            )
        return location


def open_checkpoint(directory: Path, fields: ModelFields) -> Checkpoint:
    """Map every parameter of the model to the files; see :class:`CheckpointError`.

    Parameters are found under their own name; stacked experts are made of per-expert tensors, and
    per-expert parameters (transformers 4.57) of stacked ones. All missing, surplus, misshapen and
    quantised tensors are listed in one error.
    """
    tensors = read_tensors(directory)
    wanted = parameter_shapes(fields)
    ignored, present = _split_ignored(tensors, fields)
    problems: list[str] = []
    locations: dict[str, _Location] = {}
    used: set[str] = set()
    for name, shape in wanted.items():
        parts = [(name, shape)] if name in present else expert_parts(name, shape)
        absent = [part for part, _ in parts if part not in present]
        used.update(part for part, _ in parts)
        problems += [f"missing: {part} {list(size)}" for part, size in parts if part in absent]
        problems += _misfits(present, [pair for pair in parts if pair[0] not in absent])
        if not absent:
            locations[name] = _Location.of(shape, tuple(present[part] for part, _ in parts))
    problems += [f"surplus: {name}" for name in present if name not in used]
    if problems:
        raise CheckpointError(
            "the checkpoint does not fit its config.json",
            place=str(directory),
            expected=f"the {len(wanted)} parameters of {fields.architecture}",
            found=Lines.of([*problems[:LISTED], *_rest(problems)]),
            remedy="complete the download, or use the config.json that belongs to these files",
        )
    if fields.tie_word_embeddings:
        locations["lm_head.weight"] = locations["model.embed_tokens.weight"]
    for name, location in list(locations.items()):
        locations.update(_single_experts(name, location))
    return Checkpoint(directory, locations, tuple(sorted(ignored)))


def read_tensors(directory: Path) -> dict[str, FileTensor]:
    """All tensors of a checkpoint directory, with or without an index."""
    index = directory / INDEX
    if index.is_file():
        return _read_indexed(directory, index)
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            "the directory holds no weights",
            place=str(directory),
            expected=f"*.safetensors, with {INDEX} when there are several",
            remedy="download the weights, or compile with random weights",
        )
    tensors: dict[str, FileTensor] = {}
    for path in files:
        for name, tensor in read_header(path).items():
            if name in tensors:
                raise CheckpointError(
                    f"tensor '{name}' is in two files and no index says which one counts",
                    place=str(directory),
                    found=f"{tensors[name].path.name} and {path.name}",
                    remedy=f"add {INDEX}, or remove the file that does not belong",
                )
            tensors[name] = tensor
    return tensors


def _read_indexed(directory: Path, index: Path) -> dict[str, FileTensor]:
    try:
        data = json.loads(read_plain(index).decode("utf-8"))
        files: dict[str, str] = {name: str(file) for name, file in data["weight_map"].items()}
        names = sorted(set(files.values()))
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the index of the weights can't be read: {error!r}",
            place=str(index),
            expected="a JSON object with 'weight_map'",
            remedy="download the index again",
        ) from error
    absent = [name for name in names if not (directory / name).is_file()]
    outside = [name for name in names if Path(name).name != name]
    if absent or outside:
        raise CheckpointError(
            "the index names files that are not in the directory",
            place=str(index),
            found=", ".join(absent or outside),
            remedy="complete the download",
        )
    headers = {name: read_header(directory / name) for name in names}
    lost = [tensor for tensor, file in files.items() if tensor not in headers[file]]
    if lost:
        raise CheckpointError(
            "files lack tensors that the index places there",
            place=str(index),
            found=", ".join(f"{tensor} in {files[tensor]}" for tensor in lost),
            remedy="download the files and the index again",
        )
    return {tensor: headers[file][tensor] for tensor, file in files.items()}


def _rest(problems: list[str]) -> list[str]:
    return [f"... and {len(problems) - LISTED} more"] if len(problems) > LISTED else []


def _split_ignored(
    tensors: Mapping[str, FileTensor], fields: ModelFields
) -> tuple[set[str], dict[str, FileTensor]]:
    layers = fields.num_hidden_layers
    extra = 0 if fields.moe is None else fields.moe.num_nextn_predict_layers
    prefixes = tuple(f"model.layers.{layers + i}." for i in range(extra))
    ignored = {
        name
        for name in tensors
        if name.startswith(prefixes)
        or name.endswith("rotary_emb.inv_freq")
        or (fields.tie_word_embeddings and name == "lm_head.weight")
    }
    return ignored, {name: item for name, item in tensors.items() if name not in ignored}


def _misfits(present: Mapping[str, FileTensor], parts: Sequence[NamedShape]) -> list[str]:
    problems: list[str] = []
    first = parts[0][0] if parts else ""
    for name, shape in parts:
        tensor = present[name]
        if tensor.shape != shape:
            problems.append(f"misshapen: {name} {list(tensor.shape)}, expected {list(shape)}")
        dtype = str(tensor.dtype).removeprefix("torch.")
        if tensor.dtype not in FLOATS:
            problems.append(f"quantised: {name} is {dtype}, expected a float of 16 bits or more")
        elif tensor.dtype != present[first].dtype:
            problems.append(f"mixed: {name} is {dtype}, expected {present[first].dtype} as {first}")
    return problems


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
    result, begin = {}, stacked.begin
    for part, shape in parts:
        view = FileTensor(stacked.path, part, stacked.dtype, shape, begin)
        result[part] = _Location.of(shape, (view,))
        begin += prod(shape) * stacked.dtype.itemsize
    return result


def _read_into(target: Tensor, tensor: FileTensor, offset: int) -> None:
    memory = target.view(torch.uint8).numpy().data
    try:
        with open_plain(tensor.path) as file:
            file.seek(tensor.begin + offset * tensor.dtype.itemsize)
            done = 0
            while done < len(memory):
                read = file.readinto(memory[done:])
                if not read:
                    raise CheckpointError(
                        f"the file ends inside tensor '{tensor.name}'",
                        place=str(tensor.path),
                        remedy="the file changed while it was read: download it again",
                    )
                done += read
    except OSError as error:
        raise CheckpointError(
            f"a weight file can't be read: {error.strerror or error}",
            place=str(tensor.path),
            remedy="check the disk and the file's permissions",
        ) from error

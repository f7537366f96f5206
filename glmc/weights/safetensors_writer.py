"""Write safetensors files whose tensors are streamed: header first, then piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from glmc.errors import PackError
from glmc.weights.flat import Data
from glmc.weights.hashed_file import HashedFile, WrittenFile
from glmc.weights.safetensors_header import encode_header
from glmc.weights.stream import Piece

SHARD_BYTES = 1 << 30
"""Of a file of weights: several are hashed at a time, each by one processor."""


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def plan_shards(
    tensors: Sequence[TensorSpec], shard_bytes: int = SHARD_BYTES
) -> list[list[TensorSpec]]:
    """Split into files of at most ``shard_bytes``, in order; a larger tensor has its own file.

    Within a file wider dtypes go first, so that each tensor is aligned to its own dtype.
    """
    shards: list[list[TensorSpec]] = []
    room = 0
    for tensor in tensors:
        if not shards or tensor.bytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(tensor)
        room -= tensor.bytes
    return [sorted(shard, key=lambda tensor: -tensor.dtype.itemsize) for shard in shards]


def file_size(tensors: Sequence[TensorSpec]) -> int:
    """Bytes of the file that :func:`write_file` makes."""
    return len(_header(tensors)) + sum(tensor.bytes for tensor in tensors)


def write_file(
    path: Path,
    tensors: Sequence[TensorSpec],
    stream: Callable[[TensorSpec], Iterator[Data]],
    progress: Callable[[int], None] = lambda written: None,
) -> WrittenFile:
    """Write one file; ``stream(tensor)`` yields its flat pieces and ``progress`` is told the bytes
    of each. The file is on the disk (fsync) on return. Raises :class:`PackError` for a stream that
    does not fill its tensor, and OSError."""
    with HashedFile(path) as file:
        fill(
            [file], tensors, lambda tensor: (Piece(None, data) for data in stream(tensor)), progress
        )
        return file.written()


def fill(
    files: Sequence[HashedFile],
    tensors: Sequence[TensorSpec],
    stream: Callable[[TensorSpec], Iterator[Piece]],
    progress: Callable[[int], None],
) -> None:
    """Write new files, one for each rank, and end them; see :func:`write_file`."""
    header = _header(tensors)
    for file in files:
        file.append(header)
    for tensor in tensors:
        filled = [0] * len(files)
        for rank, data in stream(tensor):
            size = len(data) * data.dtype.itemsize
            ranks = range(len(files)) if rank is None else (rank,)
            for each in ranks:
                filled[each] += size
                if data.dtype != tensor.dtype or filled[each] > tensor.bytes:
                    raise _misfit(tensor, f"{data.dtype}, {filled[each]} bytes or more")
                files[each].append(data)
            progress(size * len(ranks))
        short = [size for size in filled if size != tensor.bytes]
        if short:
            raise _misfit(tensor, f"{short[0]} bytes")
    for file in files:
        file.end()


def _header(tensors: Sequence[TensorSpec]) -> bytes:
    return encode_header([(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors])


def _misfit(tensor: TensorSpec, actual: str) -> PackError:
    return PackError(
        f"the stream of tensor '{tensor.name}' does not fill it",
        expected=f"{tensor.dtype}, {tensor.bytes} bytes",
        found=actual,
        remedy="report this: a recipe and its weight disagree",
    )

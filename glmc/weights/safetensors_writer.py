"""Write safetensors files whose tensors are streamed: header first, sha256 on the way."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from glmc.errors import PackError
from glmc.weights.safetensors_header import encode_header

SHARD_BYTES = 4 << 30


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class WrittenFile:
    sha256: str
    size: int


Stream = Callable[[TensorSpec], Iterator[Tensor]]


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
    stream: Stream,
    progress: Callable[[int], None] = lambda written: None,
) -> WrittenFile:
    """Write one file; ``stream(tensor)`` yields its flat pieces and ``progress`` is told the bytes
    of each. The file is on the disk (fsync) on return. Raises :class:`PackError` for a stream that
    does not fill its tensor, and OSError."""
    digest = hashlib.sha256()
    size = 0
    with path.open("xb", buffering=0) as file:

        def put(data: bytes | memoryview) -> None:
            digest.update(data)
            written = 0
            while written < len(data):
                written += file.write(data[written:])

        header = _header(tensors)
        put(header)
        size += len(header)
        for tensor in tensors:
            filled = 0
            for piece in stream(tensor):
                data = piece.contiguous().view(torch.uint8).numpy().data
                if piece.dtype != tensor.dtype or filled + len(data) > tensor.bytes:
                    raise _misfit(tensor, f"{piece.dtype}, {filled + len(data)} bytes or more")
                put(data)
                filled += len(data)
                progress(len(data))
            if filled != tensor.bytes:
                raise _misfit(tensor, f"{filled} bytes")
            size += filled
        os.fsync(file.fileno())
    return WrittenFile(digest.hexdigest(), size)


def _header(tensors: Sequence[TensorSpec]) -> bytes:
    return encode_header([(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors])


def _misfit(tensor: TensorSpec, actual: str) -> PackError:
    return PackError(
        f"the stream of tensor '{tensor.name}' does not fill it",
        expected=f"{tensor.dtype}, {tensor.bytes} bytes",
        found=actual,
        remedy="report this: a recipe and its weight disagree",
    )

"""The header of a safetensors file, parsed and checked without reading any tensor.

Format: 8 bytes little-endian length of the header, the header (JSON: name -> dtype, shape,
data_offsets from the end of the header), then the data.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from glmc.errors import CheckpointError
from glmc.plain_file import open_plain
from glmc.weights.source import FileRange

DTYPE_OF_CODE: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
}
CODE_OF_DTYPE = {dtype: code for code, dtype in DTYPE_OF_CODE.items()}
# The limit of the safetensors library itself; a larger number is no header.
MAXIMUM_HEADER = 100_000_000


_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class FileTensor:
    """A tensor in a file: ``begin`` is the byte where its data starts in the whole file, which is
    element ``first`` of what the file holds under that name."""

    path: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    first: int = 0

    def range(self, offset: int, count: int) -> FileRange:
        """Where ``count`` elements from ``offset`` on lie."""
        size = self.dtype.itemsize
        return FileRange(self.path, self.begin + offset * size, count * size, self.dtype, self.name)


def read_header(path: Path) -> dict[str, FileTensor]:
    """All tensors of a file by name.

    Raises :class:`CheckpointError`, with the file and what to do, for a file that is shorter than
    its header says, a header that is not JSON, an unknown dtype, or offsets that do not fit the
    shape or the file.
    """
    try:
        refuse_pointer(path)
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8 or length > MAXIMUM_HEADER:
                raise _damaged(path, "header", f"{length} bytes in a file of {size} bytes")
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(
            f"a weight file can't be read: {error.strerror or error}",
            place=str(path),
            remedy="download the file again or check its permissions",
        ) from error
    try:
        entries = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # also numbers of too many digits
        raise _damaged(path, "a JSON header", str(error)) from error
    if not isinstance(entries, dict):
        raise _damaged(path, "a JSON object as header", type(entries).__name__)
    entries.pop("__metadata__", None)
    start = 8 + length
    return {name: _tensor(path, name, entry, start, size) for name, entry in entries.items()}


def encode_header(tensors: list[tuple[str, torch.dtype, tuple[int, ...]]]) -> bytes:
    """Length and header of a file that holds the tensors one after the other.

    Padded with blanks so that the data starts at a multiple of 64 bytes.
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape in tensors:
        end = offset + prod(shape) * dtype.itemsize
        entries[name] = {
            "dtype": CODE_OF_DTYPE[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return struct.pack("<Q", len(text)) + text


def refuse_pointer(path: Path) -> None:
    """Raise for a file of Git LFS that stands for one that was not fetched, and for a web page that
    was saved under the file's name."""
    with open_plain(path) as file:
        start = file.read(64).lstrip()
    if start.startswith(_POINTER):
        raise CheckpointError(
            "a file is only the Git LFS pointer to its content",
            place=str(path),
            expected="the content",
            found=f"{path.stat().st_size} bytes of pointer",
            remedy="fetch the content: git lfs pull, or hf download REPOSITORY --local-dir DIR",
        )
    if start[:9].lower() == b"<!doctype" or start[:5].lower() == b"<html":
        raise CheckpointError(
            "a file is a web page and no weights",
            place=str(path),
            expected="a safetensors file",
            found=start[:20].decode(errors="replace"),
            remedy="download it by hf download REPOSITORY --local-dir DIR",
        )


def _tensor(path: Path, name: str, entry: Any, start: int, size: int) -> FileTensor:
    try:
        code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        numbers = all(isinstance(value, int) and value >= 0 for value in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"dtype, shape and data_offsets of '{name}'", repr(entry)) from error
    if not isinstance(code, str) or code not in DTYPE_OF_CODE:
        raise CheckpointError(
            f"tensor '{name}' has a dtype that glmc can't read",
            place=str(path),
            expected=", ".join(DTYPE_OF_CODE),
            found=repr(code),
            remedy="use the unquantised checkpoint of the same model: this dtype is of no float of "
            "16 bits or more",
        )
    dtype = DTYPE_OF_CODE[code]
    if not numbers or end - begin != prod(shape) * dtype.itemsize:
        raise _damaged(path, f"data_offsets of '{name}' that span its shape", repr(entry))
    if start + end > size:
        raise _damaged(path, f"data of '{name}' up to byte {start + end}", f"{size} bytes")
    return FileTensor(path, name, dtype, shape, start + begin)


def _damaged(path: Path, expected: str, problem: str) -> CheckpointError:
    return CheckpointError(
        "a weight file is truncated or damaged",
        place=str(path),
        expected=expected,
        found=problem,
        remedy="download the file again and compare its size and sha256 with the published ones",
    )

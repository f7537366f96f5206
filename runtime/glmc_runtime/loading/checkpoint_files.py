"""Safetensors files of a checkpoint directory: the tensors that recipes name, checked, and read.

Only the headers and the elements that are asked for are read.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
from collections.abc import Iterable
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.recipes import StoredTensor

_CODES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
}
_LARGEST_HEADER = 100_000_000
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class CheckpointFiles:
    """The tensors ``names`` among those that recipes list; leaving the ``with`` closes the files.

    Raises :class:`ArtifactError` for a file that is missing or damaged, and for a tensor that is
    missing or has another dtype or shape.
    """

    def __init__(
        self, directory: Path, tensors: dict[str, StoredTensor], names: Iterable[str]
    ) -> None:
        self._directory = directory
        self._tensors = tensors
        self._descriptors: dict[str, int] = {}
        self._begins: dict[str, int] = {}
        by_file: dict[str, list[str]] = {}
        for name in dict.fromkeys(names):
            by_file.setdefault(tensors[name].file, []).append(name)
        try:
            for file, inside in by_file.items():
                self._open(file, inside)
        except BaseException:
            self._close()
            raise

    def dtype(self, name: str) -> torch.dtype:
        return dtype_of(self._tensors[name].dtype)

    def read(self, name: str, first: int, target: torch.Tensor) -> None:
        """Fill a contiguous tensor of the stored dtype with elements from ``first`` on."""
        file, memory = self._tensors[name].file, memory_of(target)
        place, done = self._begins[name] + first * target.element_size(), 0
        while done < len(memory):
            try:
                count = os.preadv(self._descriptors[file], [memory[done:]], place + done)
            except OSError as error:
                raise self._unreadable(file, error) from error
            if not count:
                raise self._damaged(file, f"the data of '{name}'", "the end of the file")
            done += count

    def __enter__(self) -> CheckpointFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def _open(self, file: str, names: list[str]) -> None:
        try:
            descriptor = self._descriptors[file] = os.open(self._directory / file, _FLAGS)
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is no plain file")
            length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
            if not 0 < length <= min(status.st_size - 8, _LARGEST_HEADER):
                found = f"{length} bytes in a file of {status.st_size}"
                raise self._damaged(file, "a safetensors header", found)
            header = json.loads(os.pread(descriptor, length, 8).decode("utf-8"))
        except OSError as error:
            raise self._unreadable(file, error) from error
        except (ValueError, RecursionError) as error:
            raise self._damaged(file, "a JSON header", str(error)) from error
        for name in names:
            entry = header.get(name) if isinstance(header, dict) else None
            self._begins[name] = 8 + length + self._begin(name, entry, status.st_size - 8 - length)

    def _begin(self, name: str, entry: Any, size: int) -> int:
        """Where the data of a tensor begin, after the header."""
        wanted = self._tensors[name]
        if entry is None:
            raise self._another(name, "nothing of that name")
        try:
            code, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            whole = type(begin) is type(end) is int and 0 <= begin <= end <= size
            dtype = _CODES.get(code, code)
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(wanted.file, f"an entry of '{name}'", repr(error)) from error
        if dtype != wanted.dtype or shape != list(wanted.shape):
            raise self._another(name, f"{str(dtype)[:20]} {str(shape)[:80]}")
        if not whole or end - begin != prod(wanted.shape) * dtype_of(wanted.dtype).itemsize:
            raise self._damaged(wanted.file, f"offsets that fit '{name}'", f"{begin} to {end}")
        return int(begin)

    def _another(self, name: str, found: str) -> ArtifactError:
        tensor = self._tensors[name]
        return ArtifactError(
            f"the checkpoint has another tensor '{name}' than the one that was compiled",
            place=str(self._directory / tensor.file),
            expected=f"{tensor.dtype} {list(tensor.shape)}",
            found=found,
            remedy="name the directory of that checkpoint: --checkpoint DIR",
        )

    def _damaged(self, file: str, expected: str, found: str) -> ArtifactError:
        return ArtifactError(
            "a file of the checkpoint is truncated or damaged",
            place=str(self._directory / file),
            expected=expected,
            found=found,
            remedy="download the file again",
        )

    def _unreadable(self, file: str, error: OSError) -> ArtifactError:
        return ArtifactError(
            f"a file of the checkpoint can't be read: {error.strerror or error}",
            place=str(self._directory / file),
            expected="the checkpoint that was compiled: the artifact has no weights of its own",
            remedy="name its directory: --checkpoint DIR, or load(..., checkpoint=DIR)",
        )


def memory_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor of the host."""
    if not tensor.nbytes:
        return memoryview(b"")
    memory = (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())
    return memoryview(memory).cast("B")

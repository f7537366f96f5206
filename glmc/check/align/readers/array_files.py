"""One tensor a file: numpy's ``.npy`` and torch's ``.pt``; no code in them is run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glmc.check.align.readers.h5_limits import MOST_ELEMENTS
from glmc.plain_file import open_plain
from glmc_runtime.errors import RecordError

SUFFIXES = (".npy", ".pt")
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def described(path: Path) -> tuple[str, tuple[int, ...]]:
    """The dtype, by torch's name, and the shape of a file's tensor; the elements of an ``.npy`` are
    not read. Raises :class:`RecordError`."""
    with _readable(path):
        if path.suffix == ".npy":
            shape, dtype = _header(path)
            return str(dtype.name), shape
        tensor = _load_pt(path)
        return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def load(path: Path) -> Tensor:
    """The tensor of a file; raises :class:`RecordError`."""
    with _readable(path):
        if path.suffix != ".npy":
            return _load_pt(path)
        _header(path)
        with open_plain(path) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _header(path: Path) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype, of a file that has all elements."""
    with open_plain(path) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"version {version} of the format")
        shape, _, dtype = _HEADERS[version](file)
        if dtype.kind not in "fiubc":
            raise ValueError(f"elements of type {dtype}")
        missing = prod(shape) * dtype.itemsize - (path.stat().st_size - file.tell())
        if missing > 0:
            raise ValueError(f"{missing} bytes are missing")
    return tuple(shape), dtype.newbyteorder("=")


def _load_pt(path: Path) -> Tensor:
    """Elements may be repeated, as those of a tensor that was expanded, up to a number."""
    open_plain(path).close()  # no pipe
    _require_unpacked(path)
    found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, Tensor):
        raise ValueError(f"a {type(found).__name__} and no tensor")
    size, stored = found.numel() * found.itemsize, found.untyped_storage().nbytes()
    if found.device.type != "cpu" or (size > stored and found.numel() > MOST_ELEMENTS):
        raise ValueError(f"{size:,} bytes of elements, of which {stored:,} are in the file")
    return found.detach()


def _require_unpacked(path: Path) -> None:
    """torch packs no entry of its archives: one that is may come to anything."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        size = sum(entry.file_size for entry in entries)
        if size > path.stat().st_size:
            raise ValueError(f"entries of {size:,} bytes in {path.stat().st_size:,}")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (
        *(OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, AttributeError),
        *(SyntaxError, IndexError, OverflowError, pickle.UnpicklingError, zipfile.BadZipFile),
    ) as error:
        raise RecordError(
            "a tensor of the dump can't be read",
            place=str(path),
            expected="a file with one tensor",
            found=(str(error) or type(error).__name__).partition("\n")[0][:200],
            remedy="dump again",
        ) from error

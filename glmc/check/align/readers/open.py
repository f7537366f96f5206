"""A record by its path, whichever tool wrote it."""

from __future__ import annotations

from pathlib import Path

from glmc.check.align.readers.npy_folder import NpyFolder
from glmc.check.align.readers.xray_csv import XrayCsv
from glmc.check.align.readers.xray_h5 import XrayH5
from glmc.plain_file import begins_with
from glmc_runtime.errors import RecordError
from glmc_runtime.record.tensors import Record

_HDF5 = "HDF\r\n"
_TABLES = (".csv", ".txt")


def open_record(path: Path) -> Record:
    """The record at a path: HDF5, a summary as a table, or a folder of dumped tensors.

    Raises :class:`RecordError` for what is none, or is damaged.
    """
    try:
        if path.is_dir():
            return NpyFolder(path)
        if begins_with(path, _HDF5, 8):
            return XrayH5(path)
        if path.is_file() and path.suffix.lower() in _TABLES:
            return XrayCsv(path)
        found = "a file of another kind" if path.exists() else "no such path"
    except OSError as error:
        found = str(error.strerror or error)
    raise RecordError(
        "there is no record of tensors",
        place=str(path),
        expected="an HDF5 file of glmc or torch_xray, a summary (.csv, .txt), or a folder of "
        "tensors that msprobe dumped; glmc align takes an artifact or a checkpoint, too",
        found=found,
    )

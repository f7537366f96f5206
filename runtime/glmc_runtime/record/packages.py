"""The package h5py, which records alone need."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from typing import Any

from packaging.version import Version

from glmc_runtime.errors import MissingPackageError

OLDEST = "3.10"
"""The order in which datasets were made, which is the order of execution, needs it."""


def import_h5py() -> Any:
    """The module; raises :class:`MissingPackageError` where it is missing or too old."""
    if importlib.util.find_spec("h5py") is None:
        raise _missing("nothing")
    found = importlib.metadata.version("h5py")
    if Version(found) < Version(OLDEST):
        raise _missing(f"h5py {found}")
    return importlib.import_module("h5py")


def _missing(found: str) -> MissingPackageError:
    return MissingPackageError(
        "records of tensors need the package 'h5py'",
        expected=f"h5py {OLDEST} or newer",
        found=found,
        remedy="pip install 'glmc-runtime[align]'",
    )

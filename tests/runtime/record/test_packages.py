"""The package that records need."""

from __future__ import annotations

import importlib.metadata
import importlib.util

import pytest

from glmc_runtime.errors import MissingPackageError
from glmc_runtime.record.packages import import_h5py


def test_it_is_imported() -> None:
    assert import_h5py().__name__ == "h5py"


def test_a_missing_one_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="h5py") as caught:
        import_h5py()
    assert caught.value.remedy == "pip install 'glmc-runtime[align]'"


def test_one_that_loses_the_order_of_datasets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.9.0")
    with pytest.raises(MissingPackageError) as caught:
        import_h5py()
    assert (caught.value.expected, caught.value.found) == ("h5py 3.10 or newer", "h5py 3.9.0")

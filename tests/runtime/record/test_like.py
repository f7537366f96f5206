"""Whose tokens may be computed again: those of a record of this model, as far as it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glmc_runtime.errors import RequestError
from glmc_runtime.record.like import ModelOfRecord, require_like

h5py = pytest.importorskip("h5py")
MODEL = ModelOfRecord("mine", 3, 512)


def written(path: Path, **facts: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs.update({"tool": "glmc", **facts})
    return path


def test_a_record_of_this_model_and_one_that_does_not_say(tmp_path: Path) -> None:
    assert require_like(written(tmp_path / "a.h5", **MODEL.facts()), MODEL) is None
    assert require_like(written(tmp_path / "b.h5"), MODEL) is None


def test_another_name_is_a_remark(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", **{**MODEL.facts(), "model": "other"})
    assert require_like(path, MODEL) == f"note: {path} is of the model other, and this one is mine"


@pytest.mark.parametrize(("name", "size"), [("layers", 4), ("vocabulary", 513)])
def test_other_layers_and_another_vocabulary_are_refused(
    tmp_path: Path, name: str, size: int
) -> None:
    path = written(tmp_path / "a.h5", **{**MODEL.facts(), name: size})
    with pytest.raises(RequestError, match="of another model") as caught:
        require_like(path, MODEL)
    assert caught.value.place == str(path)
    assert caught.value.expected == f"mine, {name} {MODEL.facts()[name]}"
    assert caught.value.found == f"mine, {name} {size}"
    assert "--prompt" in caught.value.remedy

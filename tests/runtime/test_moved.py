"""Modules under the names of version 0.1.0 are those of the new names, with a warning."""

from __future__ import annotations

import importlib
import sys

import pytest

from glmc_runtime.package.moved import RUNTIME

OLD = {
    **{
        f"glmc_runtime.{n}": f"glmc_runtime.{place}.{n}"
        for place, ns in RUNTIME.items()
        for n in ns
    },
    "glmc.driver": "glmc.compiler",
    "glmc.verify": "glmc.check.verify",
    "glmc.history": "glmc.observe.history",
    "glmc.pipeline_file": "glmc.pipeline.yaml_file",
}


@pytest.mark.parametrize("old", OLD)
def test_an_old_name_is_the_new_module(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    new = importlib.import_module(OLD[old])
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{old} is {OLD[old]} now"):
        assert importlib.import_module(old) is new
    assert new.__spec__ is not None and new.__spec__.name == OLD[old]


def test_another_name_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("glmc_runtime.sessions")

"""Targets of other distributions: what must hold of them, and who is named when it doesn't."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from glmc.backends import target_by_name
from glmc.backends.installed import TARGETS
from glmc.config import CompileOptions
from glmc.errors import UsageError
from glmc_runtime.errors import ExtensionError
from tests.support.distributions import install

MODULE = """
from dataclasses import replace
from glmc.backends import cpu
good = replace(cpu.TARGET, name="mine")
none = {}
other = cpu.TARGET
ruleless = replace(good, rules={"swiglu": 3})
dtypeless = replace(good, dtypes=())
worded = replace(good, dtypes=("float32",))
unlaid = replace(good, cache_layout="elsewhere")
"""
WRONG = {
    "none": "dict is no target",
    "other": "its name is 'cpu'",
    "ruleless": "its rules are no rules",
    "dtypeless": "its dtypes are ()",
    "worded": "its dtypes are ('float32',)",
    "unlaid": "its cache layout is 'elsewhere'",
}


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str = "good") -> None:
    points = {"mine": f"target_module:{name}"}
    install(folder, "some-target", {TARGETS: points}, {"target_module.py": MODULE})
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "target_module", raising=False)


def test_an_installed_target_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="there is no target 'mine'"):
        CompileOptions(target="mine")
    installed(tmp_path, monkeypatch)
    assert CompileOptions(target="mine").target == "mine"
    assert "target_module" not in sys.modules  # known by name; imported when compiled for
    assert target_by_name("mine").name == "mine"
    assert target_by_name("cpu").name == "cpu"


def test_an_unknown_target_is_answered_with_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch)
    with pytest.raises(UsageError) as caught:
        CompileOptions(target="yours")
    assert caught.value.expected == "cpu, cuda, xpu, mine"


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_target_is_refused_with_its_origin(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, name)
    with pytest.raises(ExtensionError, match="'mine' can't be used as a target") as caught:
        target_by_name("mine")
    assert WRONG[name] in caught.value.message
    assert "some-target 0.1.0" in caught.value.place


def test_names_of_glmc_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "some-target", {TARGETS: {"cpu": "x:y"}})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ExtensionError, match="'cpu' is a name of glmc itself"):
        target_by_name("cpu")
    assert target_by_name("xpu").name == "xpu"

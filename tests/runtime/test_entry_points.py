"""Kernels of other distributions: only installed ones, only their own names, never by surprise."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from glmc_runtime import kernels
from glmc_runtime.errors import ExtensionError, GuardError, PlanError
from glmc_runtime.format.manifest import Guards
from glmc_runtime.kernels import find_binder
from glmc_runtime.loading.guards import device_for
from glmc_runtime.package.entry_points import KERNELS
from tests.support.distributions import install

MODULE = """
from glmc_runtime.kernels import register
{extra}
@register("{name}")
def binder(arguments):
    return lambda: None
"""


@pytest.fixture(autouse=True)
def _same_kernels_after(monkeypatch: pytest.MonkeyPatch) -> None:
    find_binder("cpu.swiglu")  # imported once and for all
    monkeypatch.setattr(kernels, "_BINDERS", dict(kernels._BINDERS))
    for name in ("family_module", "elsewhere"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def installed(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str = "mine.kernel",
    extra: str = "",
    value: str = "family_module",
    family: str = "mine",
) -> None:
    source = MODULE.format(name=name, extra=extra)
    install(folder, "kernels", {KERNELS: {family: value}}, {"family_module.py": source})
    monkeypatch.syspath_prepend(folder)


def guards(target: str) -> Guards:
    return Guards("0.1", "2.5", target, {})


def test_an_installed_family_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch)
    find_binder("cpu.swiglu")
    assert "family_module" not in sys.modules
    assert callable(find_binder("mine.kernel")({}))
    with pytest.raises(PlanError, match=r"no kernel 'mine\.other'"):
        find_binder("mine.other")


def test_a_plan_can_not_have_code_imported_that_nobody_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("elsewhere.kernel", "elsewhere", "../elsewhere.kernel", "os.system", ".x", ""):
        with pytest.raises(PlanError, match="this runtime has no kernel"):
            find_binder(name)
    with pytest.raises(GuardError, match="unknown target"):
        device_for(guards("elsewhere"), None)
    assert "elsewhere" not in sys.modules


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "theirs.kernel"}, "'mine' is no family of kernels"),
        ({"value": "family_module:binder"}, "'mine' is no family of kernels"),
        ({"value": "not_there"}, "can't be imported: ModuleNotFoundError"),
        ({"extra": "raise ValueError('no')"}, "can't be imported: ValueError: no"),
        ({"extra": "register('mine.early')(len)\n1 / 0"}, "can't be imported: ZeroDivisionError"),
        ({"extra": "register('mine.early')(len)", "name": "theirs.kernel"}, "is no family"),
        ({"name": "cpu.swiglu"}, "can't be imported: PlanError"),
    ],
)
def test_families_that_can_not_be_used_name_their_distribution(
    options: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, **options)
    with pytest.raises(ExtensionError, match=words) as caught:
        find_binder("mine.kernel")
    assert "kernels 0.1.0" in caught.value.place
    assert not {"theirs.kernel", "mine.kernel", "mine.early"} & set(kernels._BINDERS)


@pytest.mark.parametrize("family", ["xpu", "kunlun_ops"])
def test_families_of_the_runtime_and_the_vendor_are_taken(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, family=family)
    with pytest.raises(ExtensionError, match=f"'{family}' is a name of glmc itself"):
        find_binder(f"{family}.kernel")


def test_a_target_runs_where_its_family_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, extra="DEVICE = 'cpu'")
    assert device_for(guards("mine"), None) == torch.device("cpu")
    with pytest.raises(GuardError, match="can't be put on another device"):
        device_for(guards("mine"), None, "cuda")


@pytest.mark.parametrize("extra", ["", "DEVICE = 'tpu'", "DEVICE = ['cpu']"])
def test_a_target_must_say_where_it_runs(
    extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, extra=extra)
    with pytest.raises(ExtensionError, match="do not say where they run"):
        device_for(guards("mine"), None)

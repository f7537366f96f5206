"""Which kernels an artifact may name, by its target and by what is installed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from glmc_runtime import kernels
from glmc_runtime.errors import ExtensionError, PlanError
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.kernels.allowed import allowed_kernels
from glmc_runtime.loading.loader import load_artifact
from glmc_runtime.package.entry_points import KERNELS
from tests.support.distributions import install

MODULE = """
from glmc_runtime.kernels import register
from glmc_runtime.kernels.schema import schema, written
{extra}
register("mine.kernel", schema(written("out", "rows")))(lambda arguments: lambda: None)
register("mine.bare")(lambda arguments: lambda: None)
"""


@pytest.fixture
def manifest(toy_path: Path) -> Manifest:
    return load_artifact(toy_path).manifest


@pytest.fixture(autouse=True)
def _same_kernels_after(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("aten.copy", "cpu.swiglu"):
        kernels.find_binder(name)  # imported once and for all
    for registry in ("_BINDERS", "_SCHEMAS"):
        monkeypatch.setattr(kernels, registry, dict(getattr(kernels, registry)))
    monkeypatch.delitem(sys.modules, "family_module", raising=False)


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, extra: str = "") -> None:
    source = MODULE.format(extra=extra)
    files = {"family_module.py": source}
    install(folder, "kernels", {KERNELS: {"mine": "family_module"}}, files)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    ("target", "profile", "known", "unknown"),
    [
        ("cpu", None, ("aten.copy", "cpu.linear"), ("router.sigmoid_group_topk", "cuda.linear")),
        ("xpu", "P-A", ("aten.copy", "kunlun_ops.rmsnorm"), ("cpu.linear", "cuda.linear")),
        ("xpu", "P-B", ("kunlun_ops.paged_attention",), ("xspeedgate_ops.load",)),
        ("xpu", "P-C", ("kunlun_ops.matmul",), ("kunlun_ops.paged_attention",)),
        ("xpu", None, ("aten.copy",), ("kunlun_ops.rmsnorm", "kunlun_ops.CDLL")),
        ("cuda", None, ("aten.copy",), ("cpu.linear", "kunlun_ops.rmsnorm", "cpu.rope")),
        ("cpu", None, (), ("aten.any", "aten.any_in_place", "cpu.rope", "torch.load", "", ".")),
    ],
)
def test_each_target_has_its_list(
    manifest: Manifest,
    target: str,
    profile: str | None,
    known: tuple[str, ...],
    unknown: tuple[str, ...],
) -> None:
    schema_of = allowed_kernels(replace(manifest, target=target, abi_profile=profile))
    for name in known:
        assert schema_of(name, "").arguments
    for name in unknown:
        with pytest.raises(PlanError, match=r"no kernel|no vendor function"):
            schema_of(name, "")


def test_an_installed_family_may_be_named_with_its_schemas(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch)
    schema_of = allowed_kernels(manifest)
    assert schema_of("mine.kernel", "").by_name["out"].writes
    with pytest.raises(ExtensionError, match=r"'mine\.bare' has no schema") as caught:
        schema_of("mine.bare", "")
    assert "docs/writing_a_target.md" in caught.value.remedy


def test_an_installed_target_names_its_own_and_what_it_asks_for(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch)
    schema_of = allowed_kernels(replace(manifest, target="mine"))
    assert schema_of("mine.kernel", "") and schema_of("aten.copy", "")
    with pytest.raises(PlanError, match="for mine has no kernel"):
        schema_of("cpu.linear", "")


def test_an_installed_target_asks_for_families(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, extra="FAMILIES = ('cpu',)")
    schema_of = allowed_kernels(replace(manifest, target="mine"))
    assert schema_of("cpu.linear", "")
    with pytest.raises(PlanError, match="for mine has no kernel"):
        schema_of("router.sigmoid_group_topk", "")


@pytest.mark.parametrize("families", ["'cpu'", "['cpu']", "('os',)", "('traced',)", "(['cpu'],)"])
def test_families_that_are_none(
    manifest: Manifest, families: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, extra=f"FAMILIES = {families}")
    with pytest.raises(ExtensionError, match="which others"):
        allowed_kernels(replace(manifest, target="mine"))


def test_a_family_that_fails_leaves_no_schema(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = "register('mine.early', schema(written('out', 'rows')))(len)\n1 / 0"
    installed(tmp_path, monkeypatch, extra=late)
    with pytest.raises(ExtensionError, match="ZeroDivisionError"):
        allowed_kernels(manifest)("mine.kernel", "")
    assert kernels.schema_of("mine.early") is None

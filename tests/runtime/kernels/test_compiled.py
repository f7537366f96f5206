"""Kernels in C: compiled once, and what is said where they can't be."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from glmc_runtime.kernels.cpu import compiled
from glmc_runtime.kernels.cpu.compiled import SOURCES, NoLibraryError, build, library

NAME = "bfloat16_product"


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path))
    library.cache_clear()


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def test_a_library_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    try:
        first = build(SOURCES / f"{NAME}.c")
    except NoLibraryError as reason:
        pytest.skip(f"no compiler here: {reason}")
    assert first.parent == tmp_path / "kernels" and list(first.parent.iterdir()) == [first]

    def never(*arguments: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(compiled, "_compile", never)
    assert build(SOURCES / f"{NAME}.c") == first
    assert library(NAME) is not None


def test_another_source_or_processor_is_another_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(compiled, "_version", lambda compiler: "1")
    monkeypatch.setattr(compiled, "_compiler", lambda: "cc")
    monkeypatch.setattr(compiled, "_compile", lambda *given: made.append(given[-1]))
    source = tmp_path / "one.c"
    for text, processor in (("a", "x"), ("b", "x"), ("b", "y"), ("a", "x")):
        source.write_text(text)
        monkeypatch.setattr(compiled, "_processor", lambda processor=processor: processor)
        build(source)
    assert len(set(made)) == 3 and made[0] == made[3]


def test_without_a_compiler_a_warning_says_so_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_compiler(monkeypatch, tmp_path)
    with pytest.warns(UserWarning, match="no C compiler") as said:
        assert library(NAME) is None
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert library(NAME) is None


def test_who_wants_none_hears_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_compiler(monkeypatch, tmp_path)
    monkeypatch.setenv("GLMC_CPU_COMPILE", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert library(NAME) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("echo 'kernel.c:1: bad code' >&2; exit 1", "bad code"),
        ("exit 3", "status 3"),
    ],
)
def test_what_the_compiler_says(
    text: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    version = 'if [ "$1" = --version ]; then echo 1; exit 0; fi'
    monkeypatch.setenv("CC", str(script(tmp_path, "broken", f"{version}\n{text}")))
    with pytest.raises(NoLibraryError, match=reason):
        build(SOURCES / f"{NAME}.c")
    assert not list((tmp_path / "kernels").iterdir())


def test_a_compiler_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", str(script(tmp_path, "slow", "exec sleep 30")))
    monkeypatch.setattr(compiled, "_SECONDS", 0.2)
    with pytest.raises(NoLibraryError, match="timed out"):
        build(SOURCES / f"{NAME}.c")


def test_a_folder_that_can_not_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(compiled, "_compiler", lambda: "cc")
    monkeypatch.setattr(compiled, "_version", lambda compiler: "1")
    with pytest.raises(NoLibraryError, match="GLMC_CACHE"):
        build(SOURCES / f"{NAME}.c")


def test_torch_and_the_kernel_have_one_openmp() -> None:
    try:
        found = build(SOURCES / f"{NAME}.c")
    except NoLibraryError as reason:
        pytest.skip(f"no compiler here: {reason}")
    assert library(NAME) is not None
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    openmp = {path for path in loaded if compiled._OPENMP.fullmatch(path)}
    assert len(openmp) == 1, openmp
    assert str(found) in loaded

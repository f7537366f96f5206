"""Kernels in C: compiled once, for whom, and what is said where they can't be."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from glmc_runtime.kernels.cpu import compiled, narrow
from glmc_runtime.kernels.cpu.compiled import SOURCES, NoLibraryError, build, library

NAME = "bfloat16_product"
SOURCE = SOURCES / f"{NAME}.c"

has_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler here"
)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path))
    for name in ("GLMC_CPU_COMPILE", "CC"):
        monkeypatch.delenv(name, raising=False)
    library.cache_clear()
    yield
    library.cache_clear()
    narrow._product.cache_clear()


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


@has_compiler
def test_a_library_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = build(SOURCE)
    assert first.parent == tmp_path / "kernels" and list(first.parent.iterdir()) == [first]
    no_compiler(monkeypatch, tmp_path)
    assert build(SOURCE) == first
    assert library(NAME, "slow") is not None


def test_another_source_or_processor_is_another_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A compiler that writes what it is told to, which is nothing that could be loaded."""
    text = 'for last; do :; done\ntouch "$last"'
    monkeypatch.setenv("CC", str(script(tmp_path / "fake", text)))
    source, made = tmp_path / "one.c", []
    for text, processor in (("a", "x"), ("b", "x"), ("b", "y"), ("a", "x")):
        source.write_text(text)
        monkeypatch.setattr(compiled, "_processor", lambda processor=processor: processor)
        made.append(build(source))
    assert len(set(made)) == 3 and made[0] == made[3]


def test_without_a_compiler_a_warning_says_so_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_compiler(monkeypatch, tmp_path)
    with pytest.warns(
        UserWarning, match="^glmc: slow; results stay right. Why: no C compiler"
    ) as said:
        assert library(NAME, "slow") is None
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert library(NAME, "slow") is None


def test_who_wants_none_hears_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_compiler(monkeypatch, tmp_path)
    monkeypatch.setenv("GLMC_CPU_COMPILE", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert library(NAME, "slow") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [("echo 'kernel.c:1: bad code' >&2; exit 1", "bad code"), ("exit 3", "status 3")],
)
def test_what_the_compiler_says(
    text: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", str(script(tmp_path / "broken", text)))
    with pytest.raises(NoLibraryError, match=reason):
        build(SOURCE)
    assert not list((tmp_path / "kernels").iterdir())


@has_compiler
def test_the_next_compiler_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    works = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    script(tmp_path / "bin" / "cc", "exit 1")
    script(tmp_path / "bin" / "gcc", f'PATH=/usr/bin:/bin exec {works} "$@"')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert build(SOURCE).is_file()


@has_compiler
def test_cc_may_be_several_words(monkeypatch: pytest.MonkeyPatch) -> None:
    works = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    monkeypatch.setenv("CC", f"/usr/bin/env {works}")
    assert build(SOURCE).is_file()
    library.cache_clear()


@pytest.mark.parametrize("asked", ["no-such-compiler -O2", " ", "'gcc"])
def test_cc_that_is_not_there(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", asked)
    with pytest.raises(NoLibraryError, match="CC names"):
        build(SOURCE)


def test_a_compiler_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", str(script(tmp_path / "slow", "exec sleep 30")))
    monkeypatch.setattr(compiled, "_SECONDS", 0.2)
    with pytest.raises(NoLibraryError, match="timed out"):
        build(SOURCE)


@has_compiler
def test_what_was_cut_short_is_made_again() -> None:
    found = build(SOURCE)
    found.write_bytes(found.read_bytes()[:100])
    assert library(NAME, "slow") is not None
    assert found.stat().st_size > 100


def test_a_folder_that_can_not_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path / "file"))
    with pytest.raises(NoLibraryError, match="GLMC_CACHE"):
        build(SOURCE)


def test_nobody_has_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLMC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.warns(UserWarning, match="set GLMC_CACHE"):
        assert library(NAME, "slow") is None


@has_compiler
def test_what_others_may_write_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(shutil.which("gcc") or shutil.which("cc")))
    found = build(SOURCE)
    for path, mode in ((found, 0o722), (found.parent, 0o777)):
        before = path.stat().st_mode
        path.chmod(mode)
        with pytest.raises(NoLibraryError, match="others"):
            build(SOURCE)
        path.chmod(before)
    assert build(SOURCE) == found


_PRODUCT = """
import ctypes, os, sys, threading, torch
other = ctypes.CDLL(sys.argv[1]) if sys.argv[1:] else None
from glmc_runtime.kernels.cpu.compiled import _openmp
from glmc_runtime.kernels.cpu.narrow import narrow_product
x, weight = torch.ones(1, 512).bfloat16(), torch.ones(4096, 512).bfloat16()
out = torch.empty(1, 4096).bfloat16()
tasks = lambda: len(os.listdir("/proc/self/task"))
torch.set_num_threads(1)
thunk = narrow_product(x, weight, None, out)
more = []
def work():
    before = tasks()
    thunk()
    more.append(tasks() - before)
worker = threading.Thread(target=work)
worker.start()
worker.join()
work()
assert (out == 512).all()
print(max(more), _openmp())
"""


@has_compiler
def test_threads_are_as_many_as_torch_has() -> None:
    """In any thread of the program; in a process of its own, which was told three at its start."""
    environment = {**os.environ, "OMP_NUM_THREADS": "3"}
    done = subprocess.run(
        [sys.executable, "-c", _PRODUCT], capture_output=True, text=True, check=True,
        env=environment,
    )  # fmt: skip
    assert done.stdout.split()[0] == "0"


@has_compiler
def test_another_openmp_in_the_process_is_not_taken(tmp_path: Path) -> None:
    theirs = Path(compiled._openmp())
    other = tmp_path / "libgomp-another.so.1"
    shutil.copy(theirs, other)
    done = subprocess.run(
        [sys.executable, "-c", _PRODUCT, str(other)], capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.split()[1]) == theirs
    assert theirs.parent == Path(torch.__file__).parent / "lib"
    assert ctypes.CDLL(str(theirs)).omp_get_max_threads() >= 1

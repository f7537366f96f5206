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

from glmc_runtime.kernels.cpu import compiled, decode_library, kept
from glmc_runtime.kernels.cpu.compiled import SOURCES, NoLibraryError, build, library

NAME = "decode"
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
    decode_library._library.cache_clear()


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of one function, which is compiled in no time."""
    source = tmp_path / "sources" / "one.c"
    source.parent.mkdir()
    source.write_text("int one(void) { return 1; }")
    monkeypatch.setattr(compiled, "SOURCES", source.parent)
    return source


@has_compiler
@pytest.mark.parametrize("name", compiled.FLAGS_OF)
def test_our_sources_are_compiled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the cache of the user, where the other tests find them."""
    monkeypatch.undo()
    assert library(name, "slow") is not None


@has_compiler
def test_a_library_is_compiled_once(
    source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = build(source)
    assert first.parent == tmp_path / "kernels" and list(first.parent.iterdir()) == [first]
    no_compiler(monkeypatch, tmp_path)
    assert build(source) == first
    assert works()


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
def test_the_next_compiler_is_tried(
    source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    script(tmp_path / "bin" / "cc", "exit 1")
    script(tmp_path / "bin" / "gcc", f'PATH=/usr/bin:/bin exec {found} "$@"')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert build(source).is_file()
    assert works()


@has_compiler
def test_cc_may_be_several_words(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    monkeypatch.setenv("CC", f"/usr/bin/env {found}")
    assert build(source).is_file()
    assert works()


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


@pytest.fixture
def small(source: Path) -> Path:
    """A kept library."""
    return build(source)


def works() -> bool:
    library.cache_clear()
    found = library("one", "slow")
    return found is not None and found.one() == 1


@has_compiler
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.9])
@pytest.mark.parametrize("after", [b"", b"\0"], ids=["cut", "zeros"])
def test_what_was_cut_short_is_made_again(small: Path, share: float, after: bytes) -> None:
    whole = small.read_bytes()
    size = int(len(whole) * share)
    small.write_bytes(whole[:size] + after * (len(whole) - size))
    with pytest.raises(kept.DamagedError):
        kept.load(small)
    assert works()
    assert small.read_bytes() == whole


@has_compiler
def test_so_is_what_has_other_bytes(
    small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = small.read_bytes()
    for change in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[1:], whole + b"more"):
        small.write_bytes(change)
        assert works()
        assert small.read_bytes() == whole
    small.write_bytes(b"")
    no_compiler(monkeypatch, tmp_path)
    with pytest.warns(UserWarning, match="no C compiler"):
        assert not works()


@has_compiler
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_plain_file_is_not_loaded(small: Path, kind: str, tmp_path: Path) -> None:
    found, other = small, tmp_path / "other.so"
    found.rename(other)
    if kind == "link":
        found.symlink_to(other)
    elif kind == "pipe":
        os.mkfifo(found)
    else:
        found.mkdir()
    if kind == "folder":
        with pytest.warns(UserWarning, match="Is a directory"):
            assert not works()
    else:
        assert works()
        assert found.is_file() and not found.is_symlink()


@has_compiler
def test_a_loaded_library_is_no_longer_the_file(small: Path) -> None:
    """Another process may cut the file short or write it anew while this one calls into it."""
    loaded, again = kept.load(small), kept.load(small)
    os.truncate(small, 0)
    assert loaded.one() == again.one() == 1
    assert str(small) not in Path("/proc/self/maps").read_text()


@has_compiler
def test_where_memory_can_not_be_loaded_from_the_file_is(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ctypes.CDLL

    def refuse(name: str) -> ctypes.CDLL:
        if name.startswith("/proc/"):
            raise OSError("failed to map segment: Operation not permitted")
        return real(name)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert kept.load(small).one() == 1


def test_a_library_is_on_the_disk_before_it_has_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[str] = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append("sync") or sync(descriptor))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("rename") or rename(*names))
    library, target = tmp_path / "one", tmp_path / "kept"
    library.write_bytes(b"code")
    kept.keep(library, target)
    assert done == ["sync", "rename", "sync"]
    assert target.read_bytes().startswith(b"code")

    def full(descriptor: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        kept.keep(library, tmp_path / "second")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["kept", "one"]


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
def test_what_others_may_write_is_not_loaded(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(shutil.which("gcc") or shutil.which("cc")))
    found = build(source)
    for path, mode in ((found, 0o722), (found.parent, 0o777)):
        before = path.stat().st_mode
        path.chmod(mode)
        with pytest.raises(NoLibraryError, match="others"):
            build(source)
        path.chmod(before)
    assert build(source) == found


@pytest.mark.parametrize("above", [0, 1])
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o703])
def test_nor_from_below_a_folder_that_others_may_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, above: int, mode: int
) -> None:
    cache = tmp_path / "shared" / "cache"
    cache.mkdir(parents=True)
    (cache, cache.parent)[above].chmod(mode)
    monkeypatch.setenv("GLMC_CACHE", str(cache))
    with pytest.warns(UserWarning, match="they may write it"):
        assert library(NAME, "slow") is None


def test_a_sticky_folder_keeps_others_from_what_is_in_it(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    assert kept.own_folder(shared / "cache" / "kernels") == shared / "cache" / "kernels"
    with pytest.raises(kept.NotOwnError):
        kept.own_folder(shared)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes folders of another user")
def test_a_folder_of_another_user(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o755)
    os.chown(other, 65534, 65534)
    with pytest.raises(kept.NotOwnError, match="belongs to others"):
        kept.own_folder(other / "kernels")


def test_a_link_counts_as_what_it_leads_to(tmp_path: Path) -> None:
    shared, private = tmp_path / "shared", tmp_path / "private"
    for folder in (shared, private):
        folder.mkdir()
    (tmp_path / "good").symlink_to(private)
    (tmp_path / "bad").symlink_to(shared)
    shared.chmod(0o777)
    assert kept.own_folder(tmp_path / "good" / "kernels") == private / "kernels"
    with pytest.raises(kept.NotOwnError):
        kept.own_folder(tmp_path / "bad" / "kernels")


def test_folders_that_are_made_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = kept.own_folder(tmp_path / "a" / "b" / "kernels")
    finally:
        os.umask(before)
    made = (folder, *folder.parents[:2])
    assert [path.stat().st_mode & 0o777 for path in made] == [0o700] * 3


_PRODUCT = """
import ctypes, os, sys, threading, torch
other = ctypes.CDLL(sys.argv[1]) if sys.argv[1:] else None
from glmc_runtime.kernels.cpu.compiled import _openmp
from glmc_runtime.kernels.cpu.few_rows import few_rows_product
x, weight = torch.ones(1, 512).bfloat16(), torch.ones(4096, 512).bfloat16()
out = torch.empty(1, 4096).bfloat16()
tasks = lambda: len(os.listdir("/proc/self/task"))
torch.set_num_threads(1)
thunk = few_rows_product(x, weight, None, out)
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


@pytest.mark.long
@has_compiler
def test_threads_are_as_many_as_torch_has_and_another_openmp_is_not_taken(tmp_path: Path) -> None:
    """In any thread of the program; in a process of its own, which was told three at its start,
    and which has another OpenMP already."""
    theirs = Path(compiled._openmp())
    other = tmp_path / "libgomp-another.so.1"
    shutil.copy(theirs, other)
    done = subprocess.run(
        [sys.executable, "-c", _PRODUCT, str(other)], capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "3"},
    )  # fmt: skip
    threads, openmp = done.stdout.split()
    assert threads == "0"
    assert Path(openmp) == theirs
    assert theirs.parent == Path(torch.__file__).parent / "lib"
    assert ctypes.CDLL(str(theirs)).omp_get_max_threads() >= 1

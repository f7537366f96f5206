"""Kernels in C, compiled by this machine's own compiler when they are first asked for.

Only for what torch has no good kernel for on this processor: without a compiler, torch's kernel
serves, and a warning says so once. A library is kept in the user's cache under the hash of what it
was made of, so that it is compiled once per machine. ``GLMC_CACHE`` names another folder,
``GLMC_CPU_COMPILE=0`` leaves all of it to torch.

Threads are those of torch: the library is linked against the OpenMP that torch has loaded, since
two of them would take the processors from each other.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent / "native"
FLAGS = ("-O3", "-march=native", "-fPIC", "-fopenmp")
_COMPILERS = ("cc", "gcc", "clang")
_OPENMP = re.compile(r"/\S*/lib(?:gomp|iomp5|omp)\b[^/\s]*\.so[^/\s]*")
_SECONDS = 60
_MAPS, _PROCESSOR = Path("/proc/self/maps"), Path("/proc/cpuinfo")


class NoLibraryError(RuntimeError):
    """Why a kernel can't be compiled here."""


@cache
def library(name: str) -> ctypes.CDLL | None:
    """The library made of ``native/<name>.c``, or None, with a warning, where there can't be one;
    None without a word where ``GLMC_CPU_COMPILE=0``."""
    if os.environ.get("GLMC_CPU_COMPILE") == "0":
        return None
    try:
        return ctypes.CDLL(str(build(SOURCES / f"{name}.c")))
    except (NoLibraryError, OSError) as reason:
        warnings.warn(
            f"glmc: no {name} for this processor, torch's own product is up to three times as "
            f"slow: {reason}",
            stacklevel=2,
        )
        return None


def build(source: Path) -> Path:
    """The library of ``source``, from the cache or compiled into it; raises NoLibraryError."""
    if sys.byteorder != "little":
        raise NoLibraryError("the kernels are written for little-endian processors")
    compiler, openmp = _compiler(), _openmp()
    made_of = (source.read_text(), _version(compiler), " ".join(FLAGS), openmp, _processor())
    key = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:24]
    folder = _folder()
    found = folder / f"{source.stem}-{key}.so"
    if not found.is_file():
        _compile(compiler, source, openmp, found)
    return found


def _compile(compiler: str, source: Path, openmp: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        compiled, linked = Path(work) / "kernel.o", Path(work) / "kernel.so"
        _run([compiler, *FLAGS, "-c", str(source), "-o", str(compiled)])
        _run([compiler, "-shared", str(compiled), openmp, "-o", str(linked)])
        linked.replace(target)  # whole for whoever else looks


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoLibraryError(str(error)) from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise NoLibraryError(f"{command[0]}: {said[0]}")
    return done.stdout


def _compiler() -> str:
    for name in filter(None, (os.environ.get("CC"), *_COMPILERS)):
        path = shutil.which(name)
        if path is not None:
            return path
    raise NoLibraryError("there is no C compiler (CC, cc, gcc or clang)")


def _version(compiler: str) -> str:
    return compiler + _run([compiler, "--version"])


def _openmp() -> str:
    """The OpenMP library that torch has loaded."""
    if not _MAPS.is_file():
        raise NoLibraryError("which OpenMP torch has loaded is only known on Linux")
    found = _OPENMP.search(_MAPS.read_text())
    if found is None:
        raise NoLibraryError("torch has loaded no OpenMP library")
    return found.group()


def _processor() -> str:
    """What ``-march=native`` depends on: a home may be shared between machines."""
    if not _PROCESSOR.is_file():
        return platform.processor()
    lines = _PROCESSOR.read_text().splitlines()
    kinds = ("flags", "Features", "model name", "model\t")
    return "\n".join(sorted({line for line in lines if line.startswith(kinds)}))


def _folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(os.environ.get("GLMC_CACHE") or Path(home) / "glmc") / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoLibraryError(
            f"{folder} can't be made, GLMC_CACHE names another: {error}"
        ) from error
    return folder

"""Kernels in C, compiled by this machine's own compiler when they are first asked for.

Only for what torch has no good kernel for on this processor: without a compiler, torch's kernel
serves, and a warning says so once; and for sums in a fixed order, which nothing else has
(:func:`required`). A library is kept in the user's cache under the hash of what it
was made for: the source, the processor and torch's OpenMP. Once it is there no compiler is needed.
One that is not what was kept is compiled anew; none is loaded from below a folder that others may
write (see ``kept.py``). ``GLMC_CACHE`` names another folder, ``GLMC_CPU_COMPILE=0`` leaves all of
it to torch.

Threads are those of torch: the library is linked against the OpenMP that torch itself uses, since
two of them would take the processors from each other.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

from glmc_runtime.kernels.cpu import kept

_LOG = logging.getLogger("glmc_runtime.kernels")
SOURCES = Path(__file__).parent / "native"
FLAGS = ("-O3", "-march=native", "-fPIC", "-fopenmp")
_AS_WRITTEN = ("-ffp-contract=off", "-fno-math-errno")
FLAGS_OF = {
    "decode": _AS_WRITTEN,
    "ordered": _AS_WRITTEN,
}
"""More flags for a source: where it fixes each rounding, the compiler must add none of its own."""
_LINK = ("-shared", "-Wl,-z,defs")  # a function that nobody has is an error now, not when loaded
_COMPILERS = ("cc", "gcc", "clang")
_SECONDS = 60
_INCLUDED = re.compile(r'^#include "([^"]+)"', re.MULTILINE)
_PROCESSOR = Path("/proc/cpuinfo")


class NoLibraryError(RuntimeError):
    """Why a kernel can't be compiled here."""


@cache
def library(name: str, without: str) -> ctypes.CDLL | None:
    """The library made of ``native/<name>.c``, or None, with a warning that begins with
    ``without``, where there can't be one; None without a word where ``GLMC_CPU_COMPILE=0``."""
    if not _may_compile():
        return None
    try:
        return _loaded(name)
    except NoLibraryError as reason:
        warnings.warn(
            f"glmc: {without}; results stay right. Why: {reason}. GLMC_CPU_COMPILE=0 says that "
            "nothing is to be compiled, and silences this",
            stacklevel=3,
        )
        return None


@cache
def required(name: str) -> ctypes.CDLL:
    """The library made of ``native/<name>.c``; raises NoLibraryError where there can't be one."""
    if not _may_compile():
        raise NoLibraryError("GLMC_CPU_COMPILE=0 says that nothing is to be compiled")
    return _loaded(name)


def _may_compile() -> bool:
    return os.environ.get("GLMC_CPU_COMPILE") != "0"


def _loaded(name: str) -> ctypes.CDLL:
    try:
        path = build(SOURCES / f"{name}.c")
        try:
            return kept.load(path)
        except (kept.DamagedError, OSError):  # cut short, or of another system
            path.unlink(missing_ok=True)
            return kept.load(build(SOURCES / f"{name}.c"))
    except (kept.DamagedError, kept.NotOwnError, OSError) as reason:
        raise NoLibraryError(str(reason)) from reason


def build(source: Path) -> Path:
    """The library of ``source``, from the cache or compiled into it; raises NoLibraryError."""
    if sys.byteorder != "little":
        raise NoLibraryError("the kernels are written for little-endian processors")
    openmp, folder = _openmp(), _folder()
    flags = " ".join((*_flags(source), *_LINK))
    made_for = (*_texts(source), flags, openmp, _processor())
    key = hashlib.sha256("\0".join(made_for).encode(errors="replace")).hexdigest()[:24]
    library = folder / f"{source.stem}-{key}.so"
    if library.is_file() and not library.is_symlink():
        try:
            kept.require_own(library)
        except kept.NotOwnError as error:
            raise NoLibraryError(str(error)) from error
        return library
    reasons = []
    for compiler in _compilers():
        try:
            _compile(compiler, source, openmp, library)
            return library
        except (NoLibraryError, OSError) as reason:
            reasons.append(str(reason))
    raise NoLibraryError("; ".join(reasons))


def _texts(source: Path) -> Iterator[str]:
    """The text of a source and of all that it includes from beside itself."""
    text = source.read_text()
    yield text
    for name in _INCLUDED.findall(text):
        yield from _texts(source.parent / name)


def _compile(compiler: tuple[str, ...], source: Path, openmp: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        compiled, linked = Path(work) / "kernel.o", Path(work) / "kernel.so"
        _run([*compiler, *_flags(source), "-c", str(source), "-o", str(compiled)])
        _run([*compiler, *_LINK, str(compiled), openmp, "-lm", "-o", str(linked)])
        kept.keep(linked, target)
    _LOG.info("%s was compiled with %s into %s", source.name, " ".join(compiler), target)


def _flags(source: Path) -> tuple[str, ...]:
    return (*FLAGS, *FLAGS_OF.get(source.stem, ()))


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoLibraryError(str(error)) from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise NoLibraryError(f"the C compiler {command[0]} failed: {said[0]}")


def _compilers() -> list[tuple[str, ...]]:
    """Each as the words of its command; that of ``CC`` may have several."""
    asked = os.environ.get("CC")
    if asked:
        try:
            words = tuple(shlex.split(asked))
        except ValueError:  # a quote that does not end
            words = ()
        if not words or shutil.which(words[0]) is None:
            raise NoLibraryError(f"CC names '{asked}', which can't be found")
        return [words]
    compilers = [path for path in map(shutil.which, _COMPILERS) if path is not None]
    if not compilers:
        raise NoLibraryError("no C compiler was found: install cc, gcc or clang, or name one in CC")
    return [(path,) for path in compilers]


class _Place(ctypes.Structure):
    """``Dl_info`` of dlfcn.h."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _openmp() -> str:
    """The OpenMP library that torch is linked with: of others that are loaded it knows nothing."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    place = _Place()
    try:
        function = ctypes.CDLL(str(path)).omp_get_max_threads
        dladdr = ctypes.CDLL(None).dladdr
        dladdr.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Place)]
        known = dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(place))
    except (OSError, AttributeError) as error:
        raise NoLibraryError(f"torch's OpenMP was not found: {error}") from error
    if not known or place.file is None:
        raise NoLibraryError("torch's OpenMP was not found")
    return os.fsdecode(place.file)


def _processor() -> str:
    """What ``-march=native`` depends on: a home may be shared between machines."""
    if not _PROCESSOR.is_file():
        return platform.processor()
    lines = _PROCESSOR.read_text(errors="replace").splitlines()
    kinds = ("flags", "Features", "model name", "model\t")
    return "\n".join(sorted({line for line in lines if line.startswith(kinds)}))


def _folder() -> Path:
    try:
        return kept.cache_folder("kernels")
    except (OSError, RuntimeError) as error:
        reason = f"there is no folder to keep it in ({error}): set GLMC_CACHE to one"
        raise NoLibraryError(reason) from error
    except kept.NotOwnError as error:
        raise NoLibraryError(str(error)) from error

"""Compile a plan for a checkpoint's config, in an interpreter that has glmc, and keep it.

The engine's own interpreter need not have the compiler, and has another torch as a rule: so glmc
runs in a process. It sees a folder with ``config.json`` and no weight; the artifact says how they
are made of the tensors that the engine's loader hands over. Kept artifacts are named by what they
were made of; whether compiler and versions are still the same is for ``--if-changed`` to say.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from glmc_engines.core.errors import CompileError, NoArtifactError, UnsupportedError
from glmc_engines.core.options import Options
from glmc_engines.core.wanted import Wanted
from glmc_runtime.errors import GlmcError, Lines
from glmc_runtime.kernels.cpu.kept import NotOwnError, cache_folder
from glmc_runtime.loading.loader import listed_files

CONFIG = "config.json"
# What a compile reads of a checkpoint, weights and tokenizer aside.
_READ = (CONFIG, "generation_config.json")
FOLDER = "artifacts"
# The compiler's codes for a model or options that it has no kernels for.
_UNSUPPORTED = ("GLMC-1002", "GLMC-1006")
SECONDS = 1800.0
"""The longest compile, and the longest wait for another process's."""
_TURN = 0.1  # seconds between looks at a lock
_SHOWN = 40  # lines of what a compiler says
_LOG = logging.getLogger("glmc.engines")


def compiler_of(options: Options, target: str) -> tuple[str, ...] | None:
    """The command of an interpreter that has glmc: the one that is named, else this process's, if
    glmc is installed there; None where there is none. Nothing is imported. On Kunlun it has to be
    named: torch is altered in the engine's own."""
    if options.compiler is not None:
        return tuple(shlex.split(options.compiler))
    if target == "xpu":
        return None
    return (sys.executable,) if _has_glmc() else None


def _has_glmc() -> bool:
    """Whether glmc is installed in this interpreter. A checkout that is found only as the current
    folder, which ``python -m`` looks into, does not count: the versions beside it are others."""
    found = importlib.util.find_spec("glmc")
    if found is None or found.origin is None:
        return False
    here = Path.cwd().resolve()
    if Path(found.origin).resolve().parent.parent != here:
        return True
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if any(each and Path(each).resolve() == here for each in named):
        return True
    elsewhere = [each for each in sys.path if Path(each or ".").resolve() != here]
    return any(importlib.metadata.distributions(name="glmc", path=elsewhere))


def compiled(checkpoint: Path, wanted: Wanted, compiler: Sequence[str]) -> tuple[Path, str]:
    """The artifact for a checkpoint's config, and whether it was "compiled" now or "cached".

    Processes that start at once wait for the first of them. A kept artifact that is damaged is made
    again. Raises :class:`NoArtifactError` where there is no config or no folder to keep it in,
    :class:`UnsupportedError` for a model that glmc does not compile, and :class:`CompileError` with
    the compiler's own words for everything else, such as missing fusions, a full disk, and a
    compile that takes longer than ``SECONDS``.
    """
    files = _config_files(checkpoint)
    name = _name(files, wanted, compiler)
    try:
        folder = cache_folder(FOLDER)
    except (NotOwnError, OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        raise NoArtifactError(
            "there is no folder to keep a compiled plan in",
            expected="a folder that this user alone may write",
            found=str(error),
            remedy="name one: GLMC_CACHE=DIRECTORY, or an artifact: GLMC_ARTIFACT=DIRECTORY",
        ) from error
    path, seen = folder / name, folder / f".{name}.seen"
    began = time.time()
    try:
        with _locked(folder / f".{name}.lock"), tempfile.TemporaryDirectory() as above:
            _remove_damaged(path)
            if path.exists() and seen.exists() and seen.stat().st_mtime >= began:
                return path, "cached"  # another rank has asked the compiler meanwhile
            model = Path(above) / name
            model.mkdir()
            for file, data in files.items():
                (model / file).write_bytes(data)
            origin = _run(compiler, model, path, wanted)
            seen.touch()
    except OSError as error:
        raise CompileError(
            f"a plan can't be compiled: {error.strerror or error}",
            place=str(error.filename or path),
            expected="room, and the right to write, in this folder and in that of temporary files",
            found=str(error),
            remedy="make room, or name folders: GLMC_CACHE=DIRECTORY, TMPDIR=DIRECTORY",
        ) from error
    return path, origin


def _config_files(checkpoint: Path) -> dict[str, bytes]:
    files = {}
    for name in _READ:
        try:
            files[name] = (checkpoint / name).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _without_config(checkpoint, str(error)) from error
    if CONFIG not in files:
        raise _without_config(checkpoint, "none")
    return files


def _without_config(checkpoint: Path, found: str) -> NoArtifactError:
    return NoArtifactError(
        "there is no config.json that a plan could be compiled of",
        place=str(checkpoint),
        expected="the directory of a checkpoint",
        found=found,
        remedy="give the engine a directory, or name an artifact: GLMC_ARTIFACT=DIRECTORY",
    )


def _name(files: dict[str, bytes], wanted: Wanted, compiler: Sequence[str]) -> str:
    """What an artifact is kept as, and the name that its model has in it."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    key = json.dumps([hashes, wanted.arguments(), list(compiler)])
    try:
        kind = str(json.loads(files[CONFIG])["model_type"])
    except (ValueError, LookupError, TypeError):
        kind = "model"  # what is wrong with the file is for the compiler to say
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_]', '_', kind)[:40]}-{digest[:16]}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Held by one process at a time; the system lets go of it when the process ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        ends = time.monotonic() + SECONDS
        while not _is_locked(descriptor):
            if time.monotonic() >= ends:
                raise CompileError(
                    f"another process has been compiling this plan for {SECONDS:.0f} s",
                    place=str(path),
                    expected="one that ends",
                    remedy="end the processes that hold this file, or name an artifact: "
                    "GLMC_ARTIFACT=DIRECTORY",
                )
            time.sleep(_TURN)
        yield
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_damaged(path: Path) -> None:
    if not path.exists():
        return
    try:
        listed_files(path)[1].hash_all(lambda name: False)
    except GlmcError as error:
        _LOG.warning("a kept plan is compiled again: %s", error.message)
        shutil.rmtree(path)


def _run(compiler: Sequence[str], model: Path, path: Path, wanted: Wanted) -> str:
    command = [*compiler, "-m", "glmc", "compile", str(model), "--output", str(path)]
    command += ["--if-changed", "--json", *wanted.arguments()]
    if not path.exists():
        _LOG.info("glmc compiles a plan, which takes some seconds: %s", shlex.join(command))
    try:
        done = _completed(command, _environment(compiler))
    except subprocess.TimeoutExpired as error:
        # What it has said so far comes in bytes, whatever the encoding.
        said = b"".join(each for each in (error.stdout, error.stderr) if isinstance(each, bytes))
        lines = said.decode(errors="replace").strip().splitlines()[-_SHOWN:]
        raise CompileError(
            f"glmc compile did not end within {SECONDS:.0f} s",
            place=shlex.join(command),
            found=Lines.of(lines) if lines else "nothing was said",
            remedy="run the command by hand, and name what it makes: GLMC_ARTIFACT=DIRECTORY",
        ) from error
    except OSError as error:
        raise CompileError(
            f"the compiler's interpreter can't be started: {error.strerror or error}",
            place=" ".join(compiler),
            expected="a Python interpreter that has glmc",
            remedy="name another: GLMC_COMPILER=PYTHON, or an artifact: GLMC_ARTIFACT=DIRECTORY",
        ) from error
    if done.returncode:
        raise _failed(command, done.returncode, done.stderr)
    try:
        return "cached" if json.loads(done.stdout).get("up_to_date") else "compiled"
    except (ValueError, AttributeError):
        raise _failed(command, 0, done.stdout + done.stderr) from None


def _completed(
    command: Sequence[str], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """``subprocess.run`` with a timeout that kills the children of the command as well: the
    compiler is a child where the command is ``conda run``, for example."""
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=SECONDS)
        except BaseException:  # Ctrl-C does not reach another session
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def _environment(compiler: Sequence[str]) -> dict[str, str]:
    """That of the process without what is meant for its own interpreter, its devices and ranks."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "NO_COLOR": "1"}
    dropped = ["RANK", "WORLD_SIZE", "LOCAL_RANK"]
    if list(compiler) != [sys.executable]:
        dropped += ["PYTHONPATH", "PYTHONHOME"]
    for name in dropped:
        environment.pop(name, None)
    return environment


def _failed(command: Sequence[str], status: int, said: str) -> GlmcError:
    code = re.search(r"\[(GLMC-\d+)\]", said)
    begin = 0 if code is None else code.start()
    lines = said[begin:].strip().splitlines()
    text = Lines.of(lines[:_SHOWN] if code else lines[-_SHOWN:]) if lines else "nothing"
    if code is not None and code[1] in _UNSUPPORTED:
        return UnsupportedError(
            "glmc does not compile this model with the engine's options",
            found=text,
            remedy="change what it names, or serve the model without glmc",
        )
    return CompileError(
        f"glmc compile failed with status {status}",
        place=shlex.join(command),
        found=text,
    )

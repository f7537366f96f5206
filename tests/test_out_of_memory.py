"""Memory that runs out is one error, whoever notices; everything else stays what it is."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import glmc
from glmc import compiler
from glmc.cli.main import main
from glmc.errors import CaptureError, CheckpointError, OutOfMemoryError
from glmc.out_of_memory import memory_errors
from glmc_runtime.cli import main as runtime_main
from glmc_runtime.command import out_of_memory

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "models" / "tiny-dense"


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """What comes out of a block in which ``error`` is raised."""
    with pytest.raises(BaseException) as caught, memory_errors(lambda: "passes"):
        raise error from cause
    return caught.value


class PanicException(BaseException):
    pass


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("std::bad_alloc"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("unable to mmap 4096 bytes from file <x>: Cannot allocate memory (12)"),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("can't start new thread"),
        ImportError("libx.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=repr,
)
def test_who_says_so(error: Exception) -> None:
    found = raised(error)
    assert isinstance(found, OutOfMemoryError)
    assert found.place == "passes" and found.found and found.remedy
    after = raised(CaptureError("the model can't be traced"), error)
    assert isinstance(after, OutOfMemoryError)
    assert after.found == found.found


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes do not match"),
        CheckpointError("out of memory"),  # words of ours, not a cause
        OSError(errno.ENOSPC, "No space left on device"),
        KeyboardInterrupt(),
        SystemExit(143),
        SystemError("error return without exception set"),
        PanicException("called `Option::unwrap()` on a `None` value"),
    ],
    ids=repr,
)
def test_other_errors_stay(error: BaseException) -> None:
    assert raised(error) is error


@pytest.mark.parametrize("error", [SystemError("no exception set"), PanicException("pool")])
def test_what_is_not_explained_counts_at_the_limit(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak = out_of_memory._STATUS.read_text().split("VmPeak:")[1].split()[0]
    for share, kind in ((1.0, OutOfMemoryError), (2.0, type(error))):
        limit = int(int(peak) * 1024 * share)
        monkeypatch.setattr(resource, "getrlimit", lambda what, limit=limit: (limit, limit))
        assert type(raised(error)) is kind


def test_a_compile_names_its_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*given: object) -> None:
        raise MemoryError

    monkeypatch.setattr(compiler, "capture", short)
    with pytest.raises(OutOfMemoryError) as caught:
        glmc.compile(TINY, tmp_path / "art", target="cpu", weights="random")
    assert caught.value.place == "capture"
    assert list(tmp_path.iterdir()) == []


def test_the_command_has_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def short(*given: object, **named: object) -> None:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr("glmc.cli.inspect_command.read_artifact", short)
    assert main(["inspect", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("[GLMC-1011] memory ran out\n  where:    glmc inspect\n")


def test_the_commands_of_the_runtime_have_none_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By whatever name they are called; glmc has them too."""

    def short(*given: object, **named: object) -> None:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr("glmc_runtime.cli.sessions.load", short)
    for command, name in ((runtime_main, "glmc-runtime"), (main, "glmc")):
        assert command(["run", str(tmp_path), "--token-ids", "1"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"[GLMC-2005] memory ran out\n  where:    {name} run\n")


@pytest.mark.slow
@pytest.mark.parametrize("mebibytes", [700, 740, 780])
def test_a_limit_of_the_system(tmp_path: Path, mebibytes: int) -> None:
    """Where it fails moves with the machine; whether it says so does not."""
    command = "import sys; from glmc.cli.main import main; sys.exit(main())"
    output = tmp_path / "art"
    done = subprocess.run(
        [sys.executable, "-c", command, "compile", str(TINY), "--output", str(output)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20,) * 2),
    )
    # Not while modules are imported, before there is a command.
    assert "compiler.py" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == (["art"] if not done.returncode else [])

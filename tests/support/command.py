"""Run the real command line, in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from glmc.cli.main import main

ROOT = Path(__file__).parents[2]
SMALL = ("--prefill-buckets", "16,64", "--decode-buckets", "1,2", "--max-context", "64")


@dataclass(frozen=True)
class Outcome:
    """``status`` is the exit status."""

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


def command_of(capsys: pytest.CaptureFixture[str]) -> Command:
    """A function that runs ``glmc`` with its arguments and returns what came out."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


def in_a_process(
    *arguments: object,
    before: tuple[str, ...] = (),
    path: Path | None = None,
    program: tuple[str, ...] = ("-m", "glmc.cli.main"),
) -> Outcome:
    """``python -m glmc.cli.main`` from the repository's root, after ``before``; ``path`` holds
    distributions."""
    command = [*before, sys.executable, *program, *map(str, arguments)]
    paths = [str(ROOT), str(ROOT / "runtime"), str(path or ""), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def require_refusal(outcome: Outcome, code: str, *words: str, status: int = 2) -> None:
    """An error as a user must meet it: code, remedy, no traceback, nothing on stdout."""
    assert outcome.status == status, outcome
    assert f"[{code}]" in outcome.err, outcome.err
    assert "remedy:" in outcome.err, outcome.err
    assert "Traceback" not in outcome.err and "Traceback" not in outcome.out
    assert outcome.out == ""
    for word in words:
        assert word in outcome.err, (word, outcome.err)

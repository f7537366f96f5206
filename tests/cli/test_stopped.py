"""Ctrl-C has a word, and says what a compile left."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from glmc.cli.main import main


def run_and_stop(
    monkeypatch: pytest.MonkeyPatch, place: str, arguments: list[str], before: Callable[[], object]
) -> int:
    def stopped(*values: object, **named: object) -> None:
        before()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(place, stopped)
    return main(arguments)


@pytest.mark.parametrize(
    ("command", "arguments", "place"),
    [
        ("presets", [], "glmc.cli.say.console"),
        ("inspect", ["artifact"], "glmc.cli.inspect_command.read_artifact"),
    ],
)
def test_a_command_that_was_stopped_says_so(
    command: str,
    arguments: list[str],
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_and_stop(monkeypatch, place, [command, *arguments], lambda: None) == 130
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "stopped\n")


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("dump", [False, True])
def test_a_compile_says_what_it_left(
    written: bool,
    dump: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An artifact that was there before is none that was written."""
    path, folder = tmp_path / "artifact", tmp_path / "dump"
    if not written:
        path.mkdir()
    arguments = ["compile", "glm-4.7", "--output", str(path), "-q"]
    arguments += ["--dump", str(folder)] if dump else []
    create = path.mkdir if written else (lambda: None)
    assert run_and_stop(monkeypatch, "glmc.job.read_job", arguments, create) == 130
    expected = (
        f"{path} had been written"
        if written
        else f"no artifact written, and a part of the dump in {folder}"
        if dump
        else "nothing written"
    )
    assert capsys.readouterr().err == f"stopped; {expected}\n"

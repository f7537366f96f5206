"""Names from elsewhere on a terminal: visible, on one line, and never obeyed."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import glmc.cli.main
import glmc_runtime.cli
from glmc_runtime.command.logs import configure
from glmc_runtime.command.output import generated, printable_logs
from glmc_runtime.errors import ArtifactError, Lines
from glmc_runtime.printable import json_text, printable, terminal_text
from tests.runtime.toy import write_toy

# Escape sequences, C1 controls, a bell, turned text, hidden tags, separators, half a character.
HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\x7f\r\b\u202eabc\u2066\u200b\U000e0041\u2028\x85\ud800"


def test_what_is_not_visible_is_an_escape() -> None:
    shown = printable(f"名 é {HOSTILE}")
    assert shown.isprintable()
    assert shown.startswith("名 é \\x1b]0;title\\x07")
    assert shown.encode()
    assert printable("a\nb\tc") == "a\\nb\\tc"


@pytest.mark.parametrize("command", [glmc.cli.main.main, glmc_runtime.cli.main])
def test_a_trace_is_printable(
    command: Callable[[list[str]], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    manifest = write_toy(tmp_path / "toy") / "manifest.json"
    data = json.loads(manifest.read_text())
    data["cache"]["\x1b]0;title\x07\x9b31m"] = 1
    manifest.write_text(json.dumps(data))
    with pytest.raises(ArtifactError) as caught:
        command(["run", str(manifest.parent), "--token-ids", "1", "--debug"])
    assert not str(caught.value.__cause__).isprintable()  # what it quotes is as it was
    sys.excepthook(caught.type, caught.value, caught.tb)
    lines = capsys.readouterr().err.splitlines()
    assert all(line.isprintable() for line in lines)
    assert any("unexpected keyword" in line for line in lines)


def test_an_error_is_printable_and_keeps_its_own_lines() -> None:
    error = ArtifactError(
        f"a\n{HOSTILE}",
        place=HOSTILE,
        expected=f"x\n  remedy:   {HOSTILE}",
        found=Lines.of(["first\nline", Lines.of(["second", HOSTILE])]),
        remedy="r",
    )
    lines = str(error).split("\n")
    assert all(line.isprintable() for line in lines)
    assert [line[:12].strip() for line in lines] == [
        "[GLMC-2001]", "where:", "expected:", "found:", "", "", "remedy:",
    ]  # fmt: skip
    assert "first\\nline" in lines[3] and lines[4].strip() == "second"
    assert error.place == HOSTILE  # a program reads it as it is


def test_generated_text_is_exact_unless_it_goes_to_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family, text = "👩\u200d👧 नमस्ते\u200f\n\tx", f"{HOSTILE}y"
    assert generated(text) == text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert generated(family) == family == terminal_text(family)
    assert generated(text).encode()
    assert not any(letter in generated(text) for letter in "\x1b\x07\x9b\x85\x7f\r\b\u202e\u2066")


def test_json_is_readable_and_exact() -> None:
    data = {HOSTILE: ["名 👩\u200d👧", HOSTILE, 1.5]}
    assert json_text(data).isprintable()
    assert "名" in json_text(data)
    assert json.loads(json_text(data)) == data


def test_logs_and_warnings_are_printable() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("of a library")
    logger.addHandler(handler)
    factory, written = logging.getLogRecordFactory(), warnings.formatwarning
    try:
        with printable_logs():
            logger.warning("name %s", HOSTILE)
            said = warnings.formatwarning(HOSTILE, UserWarning, "file", 1, "line")
            ours = warnings.formatwarning("glmc: slow", UserWarning, "file", 1, "line")
            configure(quiet=True)
            quiet = warnings.formatwarning("glmc: slow", UserWarning, "file", 1, "line")
            configure()
    finally:
        logger.removeHandler(handler)
    assert (ours, quiet) == ("glmc: slow\n", "")  # without the line of our source that warns
    for text in (stream.getvalue(), said):
        assert text.replace("\n", "").isprintable() and "title" in text
    assert (logging.getLogRecordFactory(), warnings.formatwarning) == (factory, written)

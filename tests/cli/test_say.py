"""Texts of tables and lines: taken as they are, printed as a terminal may show them."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from glmc.cli.main import main
from glmc.cli.say import say
from glmc.console import PlainConsole

NAME = "\x1b[2J[link=https://example.org]x[/link] :smile:\nsecond\u202e\ud800"
SHOWN = "\\x1b[2J[link=https://example.org]x[/link] :smile:\\nsecond\\u202e\\ud800"


def test_cells_titles_and_lines_hold_no_commands() -> None:
    stream = io.StringIO()
    console = PlainConsole(file=stream, width=120, force_terminal=True, color_system=None)
    table = Table(title=NAME)
    table.add_column(NAME)
    table.add_row(NAME)
    console.print(table)
    console.print(NAME, highlight=False)
    assert stream.getvalue().count(SHOWN) == 4
    assert not any(letter in stream.getvalue() for letter in "\u202e\ud800\x1b")


def test_lines_that_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"one {NAME}")
    assert capsys.readouterr().out == f"one {SHOWN}\n".replace("\\n", "\n")


def test_an_error_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", f"no such {NAME}"]) == 2
    assert main([NAME]) == 2
    shown = capsys.readouterr().err
    assert shown.replace("\n", "").isprintable()
    assert "second" in shown

"""The page on the command line names what there is, and shows what is printed."""

from __future__ import annotations

import re

import pytest

from glmc.cli.commands import ROWS
from glmc.cli.main import main
from glmc_runtime.cli.chat import HELP
from glmc_runtime.cli.commands import COMMANDS
from glmc_runtime.cli.prompts import PROMPT_OPTIONS
from glmc_runtime.command.options import COMMON
from tests.docs.markdown import ROOT, blocks, section, table_rows

PAGE = ROOT / "docs" / "command_line.md"


def test_every_command_is_there() -> None:
    named = set(re.findall(r"`glmc ([a-z-]+)", section(PAGE, "The command line")))
    assert named >= {row.name for row in ROWS}
    assert named >= set(COMMANDS)


def test_options_are_there() -> None:
    text = PAGE.read_text()
    assert all(f"`{option.flag}`" in text for option in COMMON)
    assert all(f"`{option.flag} " in text for option in PROMPT_OPTIONS)


def test_words_of_a_conversation_are_those_of_its_help() -> None:
    rows = [row[0] for row in table_rows(section(PAGE, "A conversation"))]
    words = set(re.findall(r"`(/[a-z]+)", " ".join(rows)))
    assert words == set(re.findall(r"^(/[a-z]+)", HELP, re.MULTILINE))


def test_an_error_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = (block for block in blocks(PAGE, "console") if "[GLMC-" in block.text)
    command, *expected = shown.lines
    assert main(command.removeprefix("$ glmc ").split()) == 2
    assert capsys.readouterr().err.splitlines() == expected

"""Prompts from options, from stdin and from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from glmc_runtime.cli import main
from glmc_runtime.cli.answers import print_several
from glmc_runtime.cli.prompts import texts_of
from glmc_runtime.errors import RequestError
from glmc_runtime.generate.events import Event


def texts(*prompts: str, files: tuple[str, ...] = (), ids: tuple[str, ...] = ()) -> list[str]:
    options = SimpleNamespace(
        prompt=list(prompts) or None, prompt_file=list(files) or None, token_ids=list(ids) or None
    )
    return texts_of(options)


def test_where_prompts_come_from(typed: Callable[..., None], tmp_path: Path) -> None:
    file = tmp_path / "prompts"
    file.write_text("a\nb c\n")
    typed("one", "two")
    assert texts() == ["one\ntwo"]  # what is piped in is one prompt
    typed("one", "two")
    assert texts("-", "x") == ["one\ntwo", "x"]
    typed("one", "two")
    assert texts("x", files=(str(file), "-")) == ["x", "a", "b c", "one", "two"]
    typed("not read")
    assert texts(ids=("1,2",)) == [] and texts("x") == ["x"]


@pytest.mark.parametrize(
    ("lines", "terminal", "prompts", "files", "message"),
    [
        ((), False, (), (), "stdin is empty"),
        (("x",), True, (), (), "nothing to generate from"),
        (("x",), False, ("-",), ("-",), "once"),
        (("x", "", "y"), False, (), ("-",), "line 2 has no prompt"),
    ],
)
def test_prompts_that_are_none(
    typed: Callable[..., None],
    lines: tuple[str, ...],
    terminal: bool,
    prompts: tuple[str, ...],
    files: tuple[str, ...],
    message: str,
) -> None:
    typed(*lines, terminal=terminal)
    with pytest.raises(RequestError, match=message):
        texts(*prompts, files=files)


@pytest.mark.parametrize("flag", ["--prompt-file", "--tools"])
def test_a_file_that_is_missing_is_a_mistake_of_the_request(
    flag: str, worded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "none")
    assert main(["run", str(worded), "--chat", "--prompt", "w3", flag, missing]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"[GLMC-2004] {flag} can't be read: No such file or directory",
        f"  where:    {missing}",
        "  expected: a file that can be read",
        f"  remedy:   name one: {flag} FILE",
    ]


def test_line_n_is_answer_n_whatever_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    """The second answer is complete first, and the first one has a newline and a backslash."""

    class Stream:
        answers = ((0, 0), (1, 0))

        def __iter__(self) -> object:
            yield Event(1, 5, "second", "stop")
            yield Event(0, 6, "a\nb", None)
            yield Event(0, 7, "\\c", "length")

    session = SimpleNamespace(text=SimpleNamespace(available=True), max_context=9)
    print_several(session, Stream())  # type: ignore[arg-type]
    assert capsys.readouterr().out == "a\\nb\\\\c\nsecond\n"

"""Prompts of a command: from its options, from a file with one a line, from stdin."""

from __future__ import annotations

import sys
from types import SimpleNamespace

from glmc_runtime.command.options import Option
from glmc_runtime.command.request_files import text_of_file
from glmc_runtime.errors import RequestError

STDIN = "-"
GROUP = "Prompts"
PROMPT_OPTIONS = (
    Option(
        "--prompt",
        "A prompt, repeatable; - is all of stdin, as is none where stdin is a pipe or a file.",
        many=True,
        metavar="TEXT",
        group=GROUP,
    ),
    Option(
        "--prompt-file",
        "A file with a prompt on each line, repeatable; - is stdin.",
        many=True,
        metavar="FILE",
        group=GROUP,
    ),
    Option(
        "--token-ids",
        "A prompt as ids, such as 1,2,3; repeatable.",
        many=True,
        metavar="IDS",
        group=GROUP,
    ),
)


def texts_of(options: SimpleNamespace) -> list[str]:
    """The prompts that are texts, those of --prompt first; raises :class:`RequestError`."""
    asked: list[str] = options.prompt or []
    files: list[str] = options.prompt_file or []
    if [*asked, *files].count(STDIN) > 1:
        raise RequestError("stdin can be read once", remedy="name - once")
    if not asked and not files and not options.token_ids and not _is_terminal():
        asked = [STDIN]
    texts = [_whole_stdin() if text == STDIN else text for text in asked]
    for file in files:
        texts += _lines_of(file)
    if not texts and not options.token_ids:
        raise RequestError(
            "there is nothing to generate from",
            expected="a prompt",
            remedy="pass --prompt TEXT, or pipe a text in",
        )
    return texts


def ids_of(options: SimpleNamespace) -> list[list[int]]:
    """The prompts that are token ids."""
    return [_token_ids(text) for text in options.token_ids or []]


def _is_terminal() -> bool:
    """Whether somebody would have to type; also where there is no stdin at all."""
    return sys.stdin is None or sys.stdin.closed or sys.stdin.isatty()


def _whole_stdin() -> str:
    """All of stdin as one prompt, without the newline at its end, which a shell adds."""
    text = _read_stdin().removesuffix("\n")
    if not text:
        raise RequestError(
            "stdin is empty: there is nothing to generate from",
            expected="a prompt",
            remedy="pass --prompt TEXT, or pipe a text in",
        )
    return text


def _lines_of(file: str) -> list[str]:
    text = _read_stdin() if file == STDIN else text_of_file("--prompt-file", file)
    lines = text.removesuffix("\n").split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            raise RequestError(
                f"line {number} has no prompt",
                place="stdin" if file == STDIN else file,
                expected="a prompt on each line",
                remedy="remove the empty line",
            )
    return lines


def _read_stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise RequestError(f"stdin is no text: {error}", remedy="pipe UTF-8 in") from error
    except OSError as error:
        raise RequestError(
            f"stdin can't be read: {error}", remedy="pass --prompt TEXT, or pipe a text in"
        ) from error


def _token_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise RequestError(
            "--token-ids is not a list of ids", expected="ids such as 1,2,3", found=repr(text)
        ) from error

"""The file of a page that a command was asked for: where it may be, and how it is written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from glmc.cli.say import say
from glmc.errors import UsageError
from glmc.plain_file import begins_with

GENERATOR = 'name="generator" content="glmc"'


def require_page_place(target: Path, sources: Iterable[Path]) -> None:
    """Raise UsageError for a file inside a source, and for one that is no page of glmc's."""
    if any(target.resolve().is_relative_to(source.resolve()) for source in sources):
        raise UsageError(
            "the page would be in the artifact, whose files are all listed and hashed",
            place=str(target),
            remedy="--page FILE elsewhere",
        )
    if target.exists() and not begins_with(target, GENERATOR, 400):
        raise UsageError(
            "the file exists and is no page of ours",
            place=str(target),
            expected="a new file, or a page that glmc wrote",
            remedy="--page another.html",
        )


def write_page(target: Path, html: str) -> None:
    """Write the page and say so; raises UsageError where it can't be written."""
    try:
        target.write_text(html, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"the page can't be written: {error.strerror}", place=str(target), remedy="--page FILE"
        ) from error
    say(f"{target} written")

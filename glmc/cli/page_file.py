"""The file of a page that a command was asked for: where it may be, and how it is written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from glmc.cli.options import OUTPUT_GROUP, option
from glmc.cli.say import say
from glmc.errors import UsageError
from glmc.observe.page.embedded import is_page_file

if TYPE_CHECKING:
    from glmc.observe.page.linked import CompilePage

CompilePageOption = Annotated[
    Path | None,
    option(
        "With --page: lead from nodes to this page of the compile, as glmc inspect --page and "
        "glmc compile --dump write it.",
        OUTPUT_GROUP,
        metavar="FILE",
    ),
]


def require_page_place(target: Path, sources: Iterable[Path]) -> None:
    """Raise UsageError for a file inside a source, and for one that is no page of glmc's."""
    if any(target.resolve().is_relative_to(source.resolve()) for source in sources):
        raise UsageError(
            "the page would be in the artifact, whose files are all listed and hashed",
            place=str(target),
            remedy="--page FILE elsewhere",
        )
    if target.is_dir() or not target.resolve().parent.is_dir():
        raise UsageError(
            "the page can't be written",
            place=str(target),
            expected="a file in a folder that exists",
            remedy="--page FILE.html",
        )
    if target.exists() and not is_page_file(target):
        raise UsageError(
            "the file exists and is no page of ours",
            place=str(target),
            expected="a new file, or a page that glmc wrote",
            remedy="--page another.html",
        )


def linked_compile(compile_page: Path | None, page: Path | None) -> CompilePage | None:
    """The page of the compile that ``page`` leads to; raises UsageError for one that is none, or
    that nothing would lead to."""
    if compile_page is None:
        return None
    if page is None:
        raise UsageError(
            "--compile-page is where a page leads to", remedy="add --page FILE, or leave it out"
        )
    from glmc.observe.page.linked import compile_page as opened

    return opened(compile_page, page)


def write_page(target: Path, html: str) -> None:
    """Write the page and say so; raises UsageError where it can't be written."""
    try:
        # A name of a file may be no text, which must not cost the page that was there.
        target.write_text(html, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(
            f"the page can't be written: {error.strerror}", place=str(target), remedy="--page FILE"
        ) from error
    say(f"{target} written")

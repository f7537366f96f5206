"""The data that a page of glmc's has inside, read back, and the address of one page from another.

A page is known by its generator, and its data says under ``page`` which one it is.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from glmc.errors import UsageError
from glmc.plain_file import begins_with, read_plain

GENERATOR = 'name="generator" content="glmc"'
"""Stands among the first 400 bytes of every page of ours."""
COMPILE, ALIGNMENT, TIMELINE = "compile", "alignment", "timeline"
WRITTEN_BY = {
    COMPILE: "glmc inspect ARTIFACT --page FILE",
    ALIGNMENT: "glmc align A B --page FILE",
    TIMELINE: "glmc timeline FILE --page PAGE",
}
_HEAD = 400
# What is inside has no "<": render.py writes it as an escape.
_DATA = re.compile(r'<script type="application/json" id="data">([^<]*)</script>')


def content_of(path: Path, kind: str) -> str:
    """The text of a file that is a page of this kind, or that stands for one. Raises UsageError."""
    try:
        return read_plain(path).decode("utf-8", errors="replace")
    except OSError as error:
        raise UsageError(
            f"the {kind} can't be read: {error.strerror or error}",
            place=str(path),
            expected=f"what {WRITTEN_BY[kind]} wrote",
            remedy=WRITTEN_BY[kind],
        ) from error


def is_page(content: str) -> bool:
    """Whether glmc wrote it as a page, of whatever kind."""
    return GENERATOR in content[:_HEAD]


def is_page_file(path: Path) -> bool:
    """The same of a file; raises OSError for one that can't be read."""
    return begins_with(path, GENERATOR, _HEAD)


def embedded_data(path: Path, content: str, kind: str) -> dict[str, Any]:
    """The data of a page of this kind. Raises UsageError for another one, and for no page."""
    found = _DATA.search(content) if is_page(content) else None
    data = None if found is None else json_object(found[1])
    if data is None or data.get("page") != kind:
        written = "a page of glmc's" if is_page(content) else "no page of glmc's"
        other = None if data is None else str(data.get("page"))
        raise UsageError(
            f"the file is not the page of {_ARTICLES[kind]}",
            place=str(path),
            expected=f"what {WRITTEN_BY[kind]} wrote, with this release",
            found=f"the page of {_ARTICLES[other]}" if other in _ARTICLES else written,
            remedy=WRITTEN_BY[kind],
        )
    return data


_ARTICLES = {COMPILE: "a compile", ALIGNMENT: "an alignment", TIMELINE: "a timeline"}


def json_object(text: str) -> dict[str, Any] | None:
    """A JSON object, None for what is none."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def relative_address(target: Path, page: Path) -> str:
    """The address of a file as a page writes it: it holds wherever both are moved together."""
    if _placed(target) == _placed(page):
        raise UsageError(
            "a page would be written over the one that it leads to",
            place=str(page),
            remedy="--page another.html",
        )
    return quote(Path(os.path.relpath(_placed(target), _placed(page).parent)).as_posix())


def _placed(path: Path) -> Path:
    """In folders as they are, since ``..`` leads out of a link's target."""
    return path.parent.resolve() / path.name

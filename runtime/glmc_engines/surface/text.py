"""Verdicts and changes as tables of text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from glmc_engines.surface.verdict import Change, Verdict, lacking

_LONGEST = 100  # characters of a signature in a table; JSON has all of it


def verdict_lines(title: str, verdicts: Sequence[Verdict], *, every: bool) -> list[str]:
    """What does not fit, or every row, and a sum."""
    needed = lacking(verdicts)
    rows = [
        (_state(each, needed), each.use.name, each.reason or _cut(each.shown))
        for each in verdicts
        if every or not each.fits
    ]
    return [*_table(rows), f"{title}: {summary(verdicts)}"]


def summary(verdicts: Sequence[Verdict]) -> str:
    """How many rows there are and what became of them, in words."""
    needed, absent = lacking(verdicts), [each for each in verdicts if not each.fits]
    text = f"{len(verdicts)} names, {len(verdicts) - len(absent)} fit"
    if needed:
        text += f", {len(needed)} needed but missing or different"
    if len(absent) > len(needed):
        text += f", {len(absent) - len(needed)} missing or different but not needed"
    return text


def change_lines(title: str, changes: Sequence[Change]) -> list[str]:
    """A line for each name that changed."""
    rows = [(each.name, each.what) for each in changes]
    return [*_table(rows), f"{title}: {len(changes)} of these names changed"]


def verdicts_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Every row, as data."""
    needed = lacking(verdicts)
    return [
        {
            "name": each.use.name,
            "state": each.state,
            "needed": each in needed or (each.fits and not each.use.optional),
            "kind": each.kind,
            "home": each.home,
            "text": each.shown,
            "reason": each.reason,
            "why": each.use.why,
        }
        for each in verdicts
    ]


def changes_json(changes: Iterable[Change]) -> list[dict[str, str]]:
    """Every change, as data."""
    return [{"name": each.name, "change": each.what} for each in changes]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _state(verdict: Verdict, needed: Sequence[Verdict]) -> str:
    if verdict.fits or verdict in needed:
        return verdict.state
    return f"{verdict.state}, not needed"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]) - 1)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]

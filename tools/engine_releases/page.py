"""The tables of docs/engine_releases.md, made of the records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.engine_releases.records import Ran, Record, Surface

PAGE = Path(__file__).resolve().parents[2] / "docs" / "engine_releases.md"
_TITLES = {"sglang": "SGLang", "vllm": "vLLM"}


def page(text: str, records: Sequence[Record]) -> str:
    """The page with its sections made anew: for each engine a table, newest release first, and what
    changed. What is before the first section stays."""
    parts = [text.partition("\n## ")[0].rstrip("\n") + "\n"]
    for engine, title in sorted(_TITLES.items(), key=lambda each: each[1].lower(), reverse=True):
        of_engine = [each for each in records if each.engine == engine]
        if of_engine:
            parts.append(_section(title, list(reversed(of_engine))))
    return "\n".join(parts)


def _section(title: str, records: Sequence[Record]) -> str:
    lines = [
        f"## {title}",
        "",
        "| release | names that the adapter uses | its tests | run with | files |",
        "|---|---|---|---|---|",
    ]
    for each in records:
        cells = (each.version, _found(each.surface), *_ran(each.ran))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *_failures(records), *_changes(records)]
    return "\n".join(lines)


def _found(surface: Surface | None) -> str:
    if surface is None:
        return "not read"
    if surface.lacking:
        return f"**lacks** {', '.join(_code(each) for each in surface.lacking)}"
    text = f"all of {surface.names}"
    return text + (f"; optional and absent: {len(surface.optional)}" if surface.optional else "")


def _ran(ran: Ran | None) -> tuple[str, str, str]:
    """How many tests passed, beside what, and which files of tests."""
    if ran is None:
        return "not run", "", ""
    text = f"ran, {ran.passed} tests passed"
    if ran.failed:
        text += f", **{len(ran.failed)} failed**"
    text += f", {ran.skipped} skipped" if ran.skipped else ""
    return text, ", ".join(ran.beside), ", ".join(ran.files) or "all"


def _failures(records: Sequence[Record]) -> list[str]:
    """A list for each release in which tests failed, with their causes."""
    lines: list[str] = []
    for record in records:
        if record.ran is not None and record.ran.failed:
            lines += [f"Failed inside {record.version}:", ""]
            lines += [line for each in record.ran.failed for line in _item(each)]
            lines.append("")
    return lines


def _changes(records: Sequence[Record]) -> list[str]:
    """A list for each release in which something changed since the one before."""
    lines: list[str] = []
    for record in records:
        if record.surface is not None and record.surface.changed:
            lines += [f"Changed from {record.surface.against} to {record.version}:", ""]
            lines += [line for each in record.surface.changed for line in _item(each)]
            lines.append("")
    return lines


def _item(text: str) -> list[str]:
    name, _, what = text.partition(": ")
    lines = [f"* `{name}`:" if what else f"* `{name}`"]
    for word in what.replace(" -> ", " to ").split():
        if len(lines[-1]) + len(word) > 115:
            lines.append(" ")
        lines[-1] += f" {word}"
    return lines


def _code(text: str) -> str:
    name, _, reason = text.partition(": ")
    return f"`{name}` ({reason})"

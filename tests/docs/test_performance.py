"""docs/performance.md: its first table is of the measured ones; results before the method."""

from __future__ import annotations

import re

from tests.docs.markdown import ROOT, section, table_rows

PAGE = ROOT / "docs" / "performance.md"
DEVICE = "NVIDIA H200"


def columns(title: str) -> list[dict[str, str]]:
    """Rows of a measured table by the names of its columns."""
    lines = section(PAGE, title).splitlines()
    head = next(line for line in lines if line.startswith("|"))
    names = [name.strip() for name in head.strip("|").split("|")]
    return [dict(zip(names, row, strict=True)) for row in table_rows("\n".join(lines))]


def test_the_first_table_is_of_the_measured_ones() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = table_rows(text[: text.index("## ")])
    assert len(rows) == 7
    for step, *figures in rows:
        phase, model, size = re.fullmatch(
            r"(\w+), (\S+), (?:batch )?(\d+)(?: tokens)?", step
        ).groups()
        sizes = {"decode": "batch", "prefill": "tokens"}[phase]
        (measured,) = [
            row
            for row in columns(f"{phase.capitalize()}, milliseconds, {DEVICE}")
            if row["model"].startswith(model) and row[sizes] == size
        ]
        names = ("eager", "compile", "glmc", "floor", "of the floor")
        assert figures == [measured.get(name, "") for name in names], step


def test_results_come_before_the_method() -> None:
    titles = [line for line in PAGE.read_text().splitlines() if line.startswith("## ")]
    assert titles[0] == "## Measured"
    assert titles[-2:] == ["## How it is measured", "## Not measured"]

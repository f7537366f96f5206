"""docs/performance.md: its short table is of the measured ones; results before the method."""

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


def test_the_short_table_is_of_the_measured_ones() -> None:
    rows = table_rows(section(PAGE, "Steps and their floors"))
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
    assert titles[:3] == ["## Beside vLLM", "## Steps and their floors", "## Measured"]
    assert titles[-2:] == ["## How it is measured", "## Not measured"]


def test_what_is_said_of_bars_beside_vllm_is_what_the_table_says() -> None:
    text = " ".join(section(PAGE, "Beside vLLM").split("\n"))
    rows = [row for row in table_rows(section(PAGE, "Beside vLLM")) if len(row) == 12]
    barred = [row for row in rows if row[8]]
    met = [row for row in barred if row[9] == "met"]
    assert f"Of {len(rows)} rows {len(barred)} have a bar" in text
    assert f"of which {len(met)} are met" in text
    for row in barred:  # a printed ratio is rounded: one at its bar may be on either side
        ratio, bar = float(row[4].strip("*")), float(row[8])
        assert row[9] in ("met", "**missed**")
        assert ratio == bar or (row[9] == "met") == (ratio > bar), row[:2]

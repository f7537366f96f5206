"""The counts of docs/numbers.md are those of a compile; what can't be measured here is not checked.

``-m slow`` compiles all presets; the one that the README compiles is compared by its test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from glmc.compiler import compile_plan
from glmc.config import CompileOptions
from glmc.job import read_job
from glmc.presets.catalog import load_config
from tests.docs.markdown import ROOT, section, table_rows

PAGE = ROOT / "docs" / "numbers.md"
COUNTS = table_rows(section(PAGE, "Calls of a decode step"))
COSTS = table_rows(section(PAGE, "Cost of a compile"))


def of_report(report: Mapping[str, Any]) -> list[int]:
    """What a row of the counts has after its name, of a report.json."""
    decode = report["phases"]["decode"]
    return [
        report["eager"]["total"],
        sum(decode["vendor_calls_by_layer"].values()),
        sum(decode["helper_calls_by_layer"].values()),
        decode["captured_segments"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("row", COUNTS, ids=lambda row: row[0])
def test_counts(row: list[str]) -> None:
    model = row[0] if "/" not in row[0] else str(ROOT / row[0])
    options = CompileOptions(target="xpu", weights="none", dtype="bfloat16")
    report = compile_plan(read_job(model, options)).report
    assert [int(cell) for cell in row[1:]] == of_report(report.to_json())


def test_the_tables_are_of_the_same_models() -> None:
    assert [row[0] for row in COUNTS] == [row[0] for row in COSTS]


@pytest.mark.parametrize("row", COSTS, ids=lambda row: row[0])
def test_parameters(row: list[str]) -> None:
    model = row[0] if "/" not in row[0] else str(ROOT / row[0])
    assert row[1] == f"{load_config(model).shape.parameters / 1e9:.4g} B"


def test_every_table_names_its_command() -> None:
    text = PAGE.read_text()
    sections = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert "2 cores" in text
    for title in sections:
        body = section(PAGE, title)
        assert "glmc" in body or title == "Not measured", title
    assert "**emulated**" in section(PAGE, "Emulated")

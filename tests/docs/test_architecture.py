"""docs/architecture.md: its floors are those that imports are held to."""

from __future__ import annotations

import re

import pytest

from tests.docs.markdown import ROOT, section, table_rows
from tests.test_import_rule import COMPILER, ENGINES, RUNTIME

PAGE = ROOT / "docs" / "architecture.md"


@pytest.mark.parametrize(
    ("head", "floors"),
    [("glmc/", COMPILER), ("glmc_runtime/", RUNTIME), ("glmc_engines/", ENGINES)],
)
def test_the_floors_are_those_of_the_import_rule(
    head: str, floors: tuple[tuple[str, ...], ...]
) -> None:
    text = section(PAGE, "The house on one page")
    (table,) = [
        part for part in text.split("\n\n") if part.startswith("| `") and head in part.split("`")[1]
    ]
    shown = [set(re.findall(r"`(\w+)(?:\.py)?`", row[0])) for row in table_rows(table)]
    rooms = [set(floor) - {"__init__"} for floor in reversed(floors)]
    assert shown == [floor for floor in rooms if floor]

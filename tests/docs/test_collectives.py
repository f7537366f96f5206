"""docs/collectives.md against the algorithms, their classes, the records and the defaults."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from glmc_runtime.collectives import bands, shared_memory
from glmc_runtime.format import algorithms, collectives
from glmc_runtime.format.algorithms import ALGORITHMS, NUMERICS
from tests.docs.markdown import ROOT, section, table_rows

PAGE = ROOT / "docs" / "collectives.md"
RECORDS = (
    collectives.AlgorithmTable,
    collectives.TableEntry,
    collectives.GroupKey,
    collectives.Band,
    collectives.Origin,
    algorithms.Link,
    collectives.Curve,
)


def test_each_algorithm_has_its_class_and_its_medium() -> None:
    text = section(PAGE, "Algorithms").partition("### Numerics")[0]
    rows = {row[0].strip("`"): (row[1].strip("`"), row[2]) for row in table_rows(text)}
    assert rows == {name: (one.numerics, one.medium) for name, one in ALGORITHMS.items()}
    assert f"pieces of {shared_memory.CAPACITY >> 20} MiB" in text.replace("\n", " ")


def test_each_class_says_on_what_its_bits_depend() -> None:
    words = {True: "yes", False: "no", None: "not known"}
    rows = {row[0].strip("`"): row[1:] for row in table_rows(section(PAGE, "Numerics classes"))}
    assert list(rows) == list(NUMERICS)
    for name, one in NUMERICS.items():
        _, of_place, of_ranks = rows[name]
        assert re.split("[:,]", of_place)[0] == words[one.of_place]
        assert re.split("[:,]", of_ranks)[0] == words[one.of_ranks]


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_fields_are_those_of_the_record(kind: Any) -> None:
    rows = table_rows(section(PAGE, f"{kind.__name__} fields"))
    assert [row[0].strip("`") for row in rows] == [one.name for one in dataclasses.fields(kind)]


def test_given_tables_are_the_defaults() -> None:
    for target, shown, numerics in table_rows(section(PAGE, "Given tables")):
        entry = collectives.default_table(target.strip("`"), 8).entries[0]
        assert numerics.strip("`") == entry.numerics
        names = re.findall(r"`(\w+)`", shown)
        assert names == [band.algorithm for band in entry.bands]
        below = re.search(r"below (\d+) (KiB|MiB)", shown)
        bounds = [band.below for band in entry.bands if band.below is not None]
        units = {"KiB": 1 << 10, "MiB": 1 << 20}
        assert bounds == ([int(below[1]) * units[below[2]]] if below else [])


def test_margins_are_those_of_the_bands() -> None:
    text = " ".join(section(PAGE, "Measure a table").split())
    assert f"{bands._SAME * 100:.0f} % count as the same" in text
    assert f"must save {bands._SWITCH * 100:.0f} %" in text
    assert f"more than {bands.MARGIN * 100:.0f} % behind" in text
    times = {5.0: "five", 8.0: "eight"}
    assert f"or {times[bands._NOISE]} times the noise, which" in text
    assert f"or {times[bands._DOUBT]} times the noise: those" in text

"""Switches of BKCL follow the bands of a table, or there are none that do."""

from __future__ import annotations

import pytest

from glmc_runtime.format.bkcl import switches_of
from glmc_runtime.format.collectives import (
    GIVEN,
    Band,
    GroupKey,
    Origin,
    TableEntry,
    default_table,
)


def entry(*bands: tuple[int | None, str]) -> TableEntry:
    key = GroupKey(2, "one-host", "bfloat16")
    return TableEntry(key, "any", tuple(Band(*band) for band in bands), Origin(GIVEN, "", "a test"))


@pytest.mark.parametrize(
    ("bands", "switches"),
    [
        ([(None, "library")], {}),
        ([(None, "ring")], {"BKCL_ENABLE_TREE": "0"}),
        (
            [(1024, "butterfly"), (None, "halving_doubling")],
            {"BKCL_ENABLE_TREE": "1", "BKCL_MULTI_TREE_THRESHOLD": "-1"},
        ),
        (
            [(1024, "butterfly"), (4096, "halving_doubling"), (None, "ring")],
            {"BKCL_ENABLE_TREE": "1", "BKCL_MULTI_TREE_THRESHOLD": "4096"},
        ),
        ([(1024, "ring"), (None, "butterfly")], None),
        ([(1024, "library"), (None, "ring")], None),
    ],
)
def test_switches_of_bands(
    bands: list[tuple[int | None, str]], switches: dict[str, str] | None
) -> None:
    assert switches_of(entry(*bands)) == switches


def test_the_default_of_xpu_is_two_mib() -> None:
    (first, *_) = default_table("xpu", 8).entries
    assert switches_of(first) == {
        "BKCL_ENABLE_TREE": "1",
        "BKCL_MULTI_TREE_THRESHOLD": "2097152",
    }

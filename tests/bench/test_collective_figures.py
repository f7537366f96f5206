"""Bandwidths, crossings and equal tables, of times that are made up."""

from __future__ import annotations

from dataclasses import replace

from bench.collective_figures import bandwidths, crossings, same_choices
from glmc_runtime.format.algorithms import Link
from glmc_runtime.format.collectives import (
    AlgorithmTable,
    Band,
    GroupKey,
    Origin,
    TableEntry,
    default_table,
)
from glmc_runtime.format.collectives_json import table_to_json

SIZES = (1 << 10, 1 << 16, 1 << 20)
NAMES = ("library", "butterfly", "peer_one_shot", "peer_two_shot")
TIMES = {
    ("library", 1 << 10): 11.0, ("library", 1 << 16): 12.0, ("library", 1 << 20): 20.0,
    ("butterfly", 1 << 10): 90.0, ("butterfly", 1 << 16): 90.0, ("butterfly", 1 << 20): 95.0,
    ("peer_one_shot", 1 << 10): 6.0, ("peer_one_shot", 1 << 16): 9.0,
    ("peer_one_shot", 1 << 20): 60.0,
    ("peer_two_shot", 1 << 10): 8.0, ("peer_two_shot", 1 << 16): 8.5,
    ("peer_two_shot", 1 << 20): 25.0,
}  # fmt: skip
ENTRY = TableEntry(
    GroupKey(8, "one-host", "bfloat16"),
    "any",
    (Band(None, "library"),),
    Origin("measured", "2026-11-30T20:00Z", "eight cards"),
    (Link("messages", 50.0, 1e4), Link("peers", 5.0, 1e5)),
)


def test_bandwidths_are_bytes_by_time() -> None:
    head, _, first, *_ = bandwidths(["library"], SIZES, TIMES)
    assert (head, first) == ("| bytes | library |", "| 1 KiB | 0.0931 |")


def test_crossings_of_a_medium_and_of_all_beside_the_textbook() -> None:
    peers, everything = crossings(NAMES, SIZES, TIMES, ENTRY)
    assert peers == (
        "* Fastest of peers: peer_one_shot, peer_two_shot from 64 KiB. "
        "Predicted: peer_one_shot, peer_two_shot from 1 MiB"
    )
    assert everything.startswith(
        "* Fastest of all: peer_one_shot, peer_two_shot from 64 KiB, library from 1 MiB. "
    )


def test_what_no_link_is_known_of_is_never_predicted_to_be_the_fastest() -> None:
    entry = replace(ENTRY, links=ENTRY.links[:1])
    *_, everything = crossings(NAMES, SIZES, TIMES, entry)
    assert everything.endswith("Predicted: butterfly")


def test_runs_are_the_same_where_all_bands_are() -> None:
    first = default_table("cuda", 8)
    bands = (Band(1 << 16, "library"), Band(None, "ring"))
    other = AlgorithmTable((replace(first.entries[0], bands=bands), *first.entries[1:]))
    one, two = ({"any": table_to_json(table)} for table in (first, replace(first)))
    assert list(same_choices([one, two, one])) == [
        "* The choices of 3 runs are the same, class any: yes"
    ]
    wrong = {"any": table_to_json(AlgorithmTable((replace(other.entries[0], numerics="any"),
                                                   *other.entries[1:])))}  # fmt: skip
    (line,) = same_choices([one, wrong])
    assert line.endswith("no, other bands of 8 ranks, one-host, float32")

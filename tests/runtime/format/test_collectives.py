"""collectives.json: what is chosen for a message, and what a table from elsewhere may not hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from glmc_runtime.errors import ArtifactError, PlanError
from glmc_runtime.format.algorithms import ALGORITHMS, NUMERICS, TREE, Link, of_class
from glmc_runtime.format.collectives import (
    AlgorithmTable,
    Band,
    Curve,
    GroupKey,
    Origin,
    TableEntry,
    choices,
    default_table,
    merged,
    tree_only,
)
from glmc_runtime.format.collectives_json import (
    LARGEST_FILE,
    read_table,
    table_digest,
    table_from_json,
    table_to_json,
    table_to_text,
)

KEY = GroupKey(4, "one-host", "bfloat16")
MEASURED = TableEntry(
    KEY,
    "any",
    (Band(1 << 16, "library"), Band(1 << 21, "butterfly"), Band(None, "ring")),
    Origin("measured", "2026-11-30", "2 cores, gloo"),
    (Link("messages", 100.0, 1000.0), Link("peers", 5.0, 1e5)),
    (
        Curve("library", (1024, 4096), (300.0, 600.0)),
        Curve("butterfly", (1024, 4096), (100.0, 400.0)),
    ),
)
TABLE = AlgorithmTable((MEASURED, *default_table("xpu", 8).entries))


def test_the_text_reads_back_to_the_same_table() -> None:
    for table in (TABLE, default_table("cpu", 2), default_table("cuda", 8), AlgorithmTable(())):
        text = table_to_text(table)
        assert read_table(text.encode()) == table
        assert table_digest(read_table(text.encode())) == table_digest(table)
    assert table_digest(TABLE) != table_digest(default_table("xpu", 8))


@pytest.mark.parametrize(
    ("size", "name"),
    [
        (1, "library"),
        ((1 << 16) - 1, "library"),
        (1 << 16, "butterfly"),
        ((1 << 21) - 2, "butterfly"),
        (1 << 21, "ring"),
        (1 << 40, "ring"),
    ],
)
def test_bands_end_below_their_bound(size: int, name: str) -> None:
    assert MEASURED.algorithm(size) == name


def test_the_given_defaults() -> None:
    (entry, *_) = default_table("xpu", 8).entries
    assert [(band.below, band.algorithm) for band in entry.bands] == [
        (2 << 20, "butterfly"),
        (None, "ring"),
    ]
    assert str(entry.origin).startswith("given, not measured: ")
    assert {one.algorithm(1 << 20) for one in default_table("cuda", 2).entries} == {"library"}
    cpu = default_table("cpu", 4)
    assert {one.numerics for one in cpu.entries} == {TREE}
    assert {one.key.dtype for one in cpu.entries} == {"float32", "bfloat16", "float16"}


def test_choices_say_what_is_expected_to_be_saved() -> None:
    small, between, large = choices(TABLE, KEY, (1024, 1 << 20, 1 << 22))
    assert (small.algorithm, small.expected, small.saving) == ("library", 300.0, 0.0)
    assert between.algorithm == "butterfly" and between.numerics == "tree"
    assert between.saving == pytest.approx(between.size / 4096 * (600 - 400))
    assert large.algorithm == "ring" and large.expected is None and large.saving is None
    (given,) = choices(TABLE, GroupKey(8, "one-host", "float16"), (10240,))
    assert given.saving is None and "not measured" in str(given.origin)
    assert str(given) == "butterfly, time not measured"
    assert str(small) == "library, 300.0 us"
    assert str(choices(TABLE, KEY, (1 << 16,))[0]) == (
        "butterfly, 6,400.0 us, 3,200.0 us less than the library"
    )


def test_a_curve_between_its_points() -> None:
    curve = Curve("ring", (1000, 3000), (10.0, 30.0))
    assert [curve.at(size) for size in (1, 1000, 2000, 3000, 6000)] == [10, 10, 20, 30, 60]


def test_a_group_that_the_table_does_not_know() -> None:
    with pytest.raises(PlanError, match="no bands for this group") as caught:
        TABLE.entry(GroupKey(3, "two-hosts", "bfloat16"))
    assert "3 ranks, two-hosts, bfloat16" in caught.value.expected
    assert "--ranks 3 --topology two-hosts" in caught.value.remedy


def test_only_the_tree_is_left() -> None:
    table = tree_only(TABLE)
    assert [(band.below, band.algorithm) for band in table.entry(KEY).bands] == [
        (1 << 16, "halving_doubling"),
        (1 << 21, "butterfly"),
        (None, "halving_doubling"),
    ]
    assert {entry.numerics for entry in table.entries} == {TREE}
    assert read_table(table_to_text(table).encode()) == table
    assert tree_only(default_table("cpu", 2)) == default_table("cpu", 2)


def test_neighbours_of_one_algorithm_are_one_band() -> None:
    bands = (Band(8, "ring"), Band(16, "ring"), Band(32, "butterfly"), Band(None, "ring"))
    assert merged(bands) == (Band(16, "ring"), Band(32, "butterfly"), Band(None, "ring"))


def test_each_algorithm_is_of_a_class_that_is_described() -> None:
    assert {one.numerics for one in ALGORITHMS.values()} == set(NUMERICS)
    assert of_class("any") == tuple(ALGORITHMS)
    assert of_class("rank_order") == ("peer_one_shot", "peer_two_shot")
    assert set(of_class(TREE)) == {"butterfly", "halving_doubling", "one_shot", "two_shot"}


@pytest.mark.parametrize(
    ("name", "ranks", "steps", "volume"),
    [
        ("butterfly", 2, 1, 1.0),
        ("butterfly", 8, 3, 3.0),
        ("butterfly", 5, 4, 4.0),
        ("halving_doubling", 4, 4, 1.5),
        ("halving_doubling", 6, 6, 3.5),
        ("ring", 4, 6, 1.5),
        ("ring", 3, 4, 4 / 3),
        ("one_shot", 4, 1, 4.0),
        ("two_shot", 4, 2, 2.75),
        ("peer_one_shot", 4, 1, 3.0),
        ("peer_two_shot", 4, 2, 1.5),
    ],
)
def test_the_textbook_cost(name: str, ranks: int, steps: int, volume: float) -> None:
    one = ALGORITHMS[name]
    assert (one.steps(ranks), one.volume(ranks)) == (steps, pytest.approx(volume))
    assert one.predicted(ranks, 1000, Link(one.medium, 5.0, 100.0)) == pytest.approx(
        5 * steps + 10 * volume
    )


def test_predictions_need_a_link() -> None:
    assert MEASURED.predicted("butterfly", 1000) == 2 * (100 + 1)
    assert MEASURED.predicted("one_shot", 1000) is None


def damaged(change: Callable[[Any], object]) -> bytes:
    data = json.loads(table_to_text(TABLE))
    change(data)
    return json.dumps(data).encode()


def _put(name: str, value: object) -> Callable[[Any], object]:
    return lambda data: data["entries"][0].__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.pop("entries"), "entries"),
        (lambda data: data.__setitem__("entries", 3), "well formed"),
        (lambda data: data.__setitem__("entries", data["entries"] * 2), "the same group"),
        (lambda data: data["entries"][0].pop("bands"), "bands"),
        (lambda data: data["entries"][0].__setitem__("extra", 1), "extra"),
        (_put("bands", []), "the last has none"),
        (_put("bands", [{"below": 8, "algorithm": "ring"}]), "the last has none"),
        (
            _put("bands", [{"below": None, "algorithm": "ring"}] * 2),
            "all bands but the last have a bound",
        ),
        (
            _put(
                "bands",
                [
                    {"below": 8, "algorithm": "ring"},
                    {"below": 8, "algorithm": "library"},
                    {"below": None, "algorithm": "ring"},
                ],
            ),
            "not ascending",
        ),
        (_put("bands", [{"below": 0, "algorithm": "ring"}] * 1), "the last has none"),
        (_put("bands", [{"below": None, "algorithm": "rm"}]), "'rm' is none of"),
        (_put("bands", [{"below": None, "algorithm": ["ring"]}]), "algorithm"),
        (_put("numerics", "tree"), "'library' is none of butterfly"),
        (_put("numerics", "exact"), "none of tree"),
        (_put("numerics", "rank_order"), "'library' is none of peer_one_shot, peer_two_shot"),
        (_put("numerics", None), "numerics"),
        (_put("key", {"ranks": 0, "topology": "x", "dtype": "float32"}), "no group"),
        (_put("key", {"ranks": 2, "topology": "x", "dtype": "int8"}), "no group"),
        (_put("key", {"ranks": 2, "topology": "", "dtype": "float32"}), "no group"),
        (_put("key", {"ranks": True, "topology": "x", "dtype": "float32"}), "ranks"),
        (_put("origin", {"kind": "guessed", "when": "", "source": ""}), "origin"),
        (_put("links", [{"medium": "messages", "latency": 0.0, "bandwidth": 1.0}]), "no link"),
        (_put("links", [{"medium": "air", "latency": 1.0, "bandwidth": 1.0}]), "no link"),
        (_put("links", [{"medium": "memory", "latency": 1.0}]), "bandwidth"),
        (_put("curves", [{"algorithm": "ring", "sizes": [], "microseconds": []}]), "no time"),
        (_put("curves", [{"algorithm": "ring", "sizes": [8], "microseconds": []}]), "no time"),
        (_put("curves", [{"algorithm": "ring", "sizes": [8], "microseconds": [0.0]}]), "no time"),
        (
            _put("curves", [{"algorithm": "ring", "sizes": [8, 4], "microseconds": [1.0, 2.0]}]),
            "no time",
        ),
        (
            _put("curves", [{"algorithm": "x", "sizes": [8], "microseconds": [1.0]}]),
            "a curve is of 'x'",
        ),
    ],
)
def test_a_table_that_is_damaged_is_refused(change: Callable[[Any], object], words: str) -> None:
    with pytest.raises(ArtifactError, match="not well formed") as caught:
        read_table(damaged(change))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not valid JSON"),
        (b"[]", "no table of collectives"),
        (b'{"format": "glmc-artifact"}', "no table of collectives"),
        (b'{"format": "glmc-collectives", "schema_version": 99}', "another schema version"),
        (b"[" * 100_000, "not valid JSON"),
        (b" " * (LARGEST_FILE + 1), "larger than any table"),
        (b'{"format": "glmc-collectives", "schema_version": 1, "entries": [7]}', "well formed"),
        (b'{"format": "\\ud800"}', "not valid JSON"),
    ],
)
def test_what_is_no_table_at_all(data: bytes, words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        read_table(data)


def test_json_data_is_plain() -> None:
    assert table_from_json(json.loads(json.dumps(table_to_json(TABLE)))) == TABLE

"""Totals and differences as JSON and CSV: plain, whole, and emulated where they are."""

from __future__ import annotations

import json
from dataclasses import replace

from glmc.observe.timeline.diff import diff
from glmc.observe.timeline.encode import diff_json, diff_rows, totals_json, totals_rows
from glmc.observe.timeline.layers import with_layers
from glmc.observe.timeline.steps import select
from glmc.observe.timeline.totals import totals
from tests.observe.timeline.sample import layered

MADE = with_layers(layered(4))
EMULATED = replace(MADE, label="b", facts=replace(MADE.facts, emulated=True))


def test_one_timeline_as_json() -> None:
    found = totals(EMULATED, select(EMULATED, None, None))
    data = json.loads(json.dumps(totals_json(EMULATED, found)))
    assert data["timeline"]["label"] == "b" and data["timeline"]["emulated"] is True
    assert data["totals"]["bubbles"]["host prepares"] == 783
    assert data["totals"]["selection"]["kind"] == {"phase": "decode", "sequences": 1, "tokens": 1}
    assert data["totals"]["layer_kinds"][0]["layers"] == [0, 1, 2, 3]


def test_two_timelines_as_json() -> None:
    data = json.loads(json.dumps(diff_json(MADE, EMULATED, diff(MADE, EMULATED, None, None))))
    assert [data[side]["timeline"]["emulated"] for side in "ab"] == [False, True]
    assert {row["aligned"] for row in data["rows"]} == {"op"}
    assert all(row["difference_us"] == 0 for row in data["rows"])
    assert all(row["a"]["name"] == row["b"]["name"] == row["name"] for row in data["rows"])
    assert [lever["name"] for lever in data["levers"]] == [
        "operator level",
        "bubbles",
        "communication",
    ]


def test_rows_of_one_timeline() -> None:
    heading, *rows = totals_rows(EMULATED, totals(EMULATED, select(EMULATED, None, None)))
    assert all(len(row) == len(heading) for row in rows)
    assert len(rows) == 4 * 6 + 2 and {row[-1] for row in rows} == {"True"}
    assert rows[17][:5] == ("moe experts", "2", "", "fused_moe_kernel", "1")


def test_rows_of_two_timelines() -> None:
    heading, *rows = diff_rows(MADE, EMULATED, diff(MADE, EMULATED, None, None))
    assert all(len(row) == len(heading) for row in rows)
    assert {row[-2:] for row in rows} == {("False", "True")}

"""The tables: which there are, and rows of numbers that are known."""

from __future__ import annotations

from dataclasses import replace

from glmc.observe.timeline.diff import diff
from glmc.observe.timeline.layers import with_layers
from glmc.observe.timeline.sections import Section, diff_sections, one_sections
from glmc.observe.timeline.steps import select
from glmc.observe.timeline.table import Timeline
from glmc.observe.timeline.totals import totals
from tests.observe.timeline.sample import kernel, layered, timeline


def one(made: Timeline) -> dict[str, Section]:
    found = totals(made, select(made, None, slice(None)))
    return {section.title: section for section in one_sections(made, found)}


def two(a: Timeline, b: Timeline) -> dict[str, Section]:
    made = diff(a, b, None, slice(None))
    return {section.title: section for section in diff_sections(a, b, made)}


def test_one_timeline() -> None:
    made = one(with_layers(layered(4)))
    assert list(made) == [
        "Steps",
        "Where the time of a step goes",
        "Bubbles",
        "By kind of op",
        "By kind of layer",
        "Launches of a layer",
        "Largest nodes and kernels",
    ]
    assert made["Steps"].rows == (("decode of 1 sequence, 1 token", "3"),)
    assert made["Launches of a layer"].rows == (("moe layers 0..3", "6"),)
    largest = made["Largest nodes and kernels"].rows
    assert largest[0][:4] == ("fused_moe_kernel", "4", "80.0", "80.0")


def test_parts_of_a_step() -> None:
    a = timeline(kernel("nvjet", 0, 6, queued_us=0), kernel("nvjet", 10, 2, queued_us=9))
    rows = {row[0]: row[1:] for row in one(a)["Where the time of a step goes"].rows}
    assert rows["operators"][:2] == ("8.0", "67%") and rows["bubbles"][:2] == ("4.0", "33%")
    assert rows["step"][0] == "12.0" and "several streams at once" not in rows


def test_emulated_numbers_say_so() -> None:
    made = layered(4)
    emulated = replace(made, label="b", facts=replace(made.facts, emulated=True))
    assert all("(emulated)" in title for title in one(emulated) if title not in ("Steps",))
    assert "B, us (emulated)" in two(made, emulated)["Three levers"].columns


def test_a_file_without_times_has_no_bubbles() -> None:
    made = layered(4)
    untimed = replace(made, facts=replace(made.facts, timed=False))
    found = one(untimed)
    assert "Bubbles" not in found
    assert ("bubbles", "-", "-", "-") in found["Where the time of a step goes"].rows
    levers = {row[0]: row[1:] for row in two(made, untimed)["Three levers"].rows}
    assert levers["bubbles"][1:3] == ("-", "-") and levers["bubbles"][0] != "-"


def test_two_timelines() -> None:
    a = timeline(kernel("nvjet", 0, 6, floor_us=4.0), kernel("strange", 6, 2))
    b = timeline(kernel("nvjet", 0, 5), label="b")
    made = two(a, b)
    assert made["Three levers"].rows[0] == ("operator level", "8.0", "5.0", "+3.0", "4.0")
    assert made["Three levers"].rows[-1] == ("step", "8.0", "5.0", "+3.0", "4.0")
    assert made["Largest differences"].rows[0] == (
        "name",
        "strange",
        "2.0",
        "-",
        "+2.0",
        "-",
        "1",
        "-",
    )
    assert len(made["What A pays that B does not"].rows) == 1
    assert made["Launches"].rows[0] == ("of a step", "2", "1")


def test_rows_fit_their_columns() -> None:
    made = with_layers(layered(4))
    for section in (*one(made).values(), *two(made, replace(made, label="b")).values()):
        assert all(len(row) == len(section.columns) for row in section.rows), section.title

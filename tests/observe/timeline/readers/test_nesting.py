"""Ranges around points, each thread by itself."""

from __future__ import annotations

from glmc.observe.timeline.readers.chrome import ChromeEvent
from glmc.observe.timeline.readers.nesting import enclosing, leaves


def range_(name: str, start: float, duration: float, thread: str = "1") -> ChromeEvent:
    return ChromeEvent(name, "", ("1", thread), start, duration, {})


def test_the_ranges_that_a_point_begins_in() -> None:
    ranges = [range_("out", 0, 100), range_("in", 10, 20), range_("later", 40, 20)]
    points = [range_("p", 12, 1), range_("q", 35, 1), range_("r", 41, 1), range_("s", 41, 1, "2")]
    found = {
        point.name: [each.name for each in around] for point, around in enclosing(ranges, points)
    }
    assert found == {"p": ["out", "in"], "q": ["out"], "r": ["out", "later"], "s": []}


def test_a_range_is_not_inside_itself_whatever_its_length() -> None:
    ranges = [range_("out", 0, 9), range_("in", 3, 2), range_("none", 4, 0)]
    found = [[each.name for each in around] for _, around in enclosing(ranges, ranges)]
    assert found == [[], ["out"], ["out", "in"]]
    assert [each.name for each in leaves(ranges)] == ["none"]


def test_leaves_have_nothing_inside() -> None:
    ranges = [
        range_("out", 0, 100),
        range_("in", 10, 20),
        range_("deep", 12, 2),
        range_("b", 40, 2),
    ]
    assert [each.name for each in leaves(ranges)] == ["deep", "b"]

"""Several compiles on one page: columns, what differs from the first, and nothing that runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from glmc.observe.diff.compare import compare
from glmc.observe.diff.record import SideFacts
from glmc.observe.diff.sides import Side
from glmc.observe.history.record import History
from glmc.observe.page.side_by_side import side_by_side_page
from tests.observe.page.browser import Opened
from tests.observe.page.test_accessibility import serious_findings
from tests.observe.page.test_render import HOSTILE
from tests.observe.sample import BEFORE, history, step


def side(label: str, made: History) -> Side:
    return Side(SideFacts(label, "dump", made.model, made.target), made, None)


def made_of(sides: list[Side]) -> str:
    return side_by_side_page(sides, [compare(sides[0], other) for other in sides[1:]])


def unfused() -> History:
    """The sample without its gate."""
    made = history()
    phases = (
        step(2, "prefill", BEFORE, stage="phase", phase="prefill"),
        step(3, "decode", BEFORE, stage="phase", phase="decode"),
    )
    return replace(made, steps=(*made.steps[:2], *phases), plans=made.plans[:1])


def rows(html: str) -> dict[str, list[tuple[str, bool]]]:
    """The rows of all tables: each cell, and whether it is marked as another one than A's."""
    cell = re.compile(r'<td class="(?P<kind>[^"]*)">(?P<text>[^<]*)</td>')
    return {
        row[1]: [(match["text"], "changed" in match["kind"]) for match in cell.finditer(row[2])]
        for row in re.finditer(r'<th scope="row">([^<]*)</th>(.*)</tr>', html)
    }


def test_columns_mark_what_differs_from_the_first() -> None:
    sides = [side("a", history()), side("b", unfused()), side("c", history())]
    table = rows(made_of(sides))
    assert table["moe_gate"] == [
        ("3 matches, 11 nodes", False),
        ("did not run", True),
        ("3 matches, 11 nodes", False),
    ]
    assert table["calls in decode"] == [("7", False), ("none", True), ("7", False)]
    assert table["captured nodes"] == [("17", False)] * 3
    assert list(table)[-1] == "kunlun_ops.gate"


def test_what_differs_is_said_first_and_in_detail() -> None:
    html = made_of([side("a", history()), side("b", unfused()), side("c", history())])
    assert "passes:   only in A: moe_gate (3 matches)" in html
    assert "Nodes, calls or buffers differ in layers 0..2." in html
    assert html.count("<p>No difference.</p>") == 1, "C is A"
    assert "aten.sigmoid(mlp.gate#linear)" in html
    assert html == made_of([side("a", history()), side("b", unfused()), side("c", history())])


def deeper() -> History:
    """The sample with a fourth layer like its last."""
    made = history()
    steps = []
    for each in made.steps:
        outside, first, second = each.blocks
        more = tuple(replace(match, layer=3) for match in each.matches if match.layer == 2)
        blocks = (outside, first, replace(second, like=(2, 3)))
        steps.append(replace(each, blocks=blocks, matches=(*each.matches, *more)))
    return replace(made, steps=tuple(steps))


def test_a_layer_of_one_side_alone_is_in_the_row_and_said_to_be() -> None:
    for sides, letter in (
        ([side("a", history()), side("b", deeper())], "B"),
        ([side("a", deeper()), side("b", history())], "A"),
    ):
        html = made_of(sides)
        assert f"No node, call or buffer differs. Of {letter} alone is layer 3." in html
        cells = re.findall(r'<li class="(differs|alike)">(\d+)</li>', html)
        assert cells == [("alike", "0"), ("alike", "1"), ("alike", "2"), ("differs", "3")]


def test_hostile_names_stay_text() -> None:
    made = unfused()
    bad = replace(made, model=HOSTILE, target=HOSTILE, versions={HOSTILE: HOSTILE})
    html = made_of([side(HOSTILE, bad), side("b", history())])
    assert "<script" not in html and "<img" not in html and "<!--" not in html
    assert "9149" not in html


def test_it_is_seen_by_all(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "diff.html"
    html = made_of([side("a", history()), side("b", unfused())])
    file.write_text(html, encoding="utf-8")
    made = Opened(browser.new_page(viewport={"width": 390, "height": 900}), file)
    view = made.at()
    assert view.evaluate("document.documentElement.scrollWidth") <= 390
    assert serious_findings(view) == []
    assert made.complaints == []

"""The page of one timeline and of two: whole without a network, its links, and who can read it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmc.observe.timeline.diff import diff
from glmc.observe.timeline.layers import with_layers
from glmc.observe.timeline.page import diff_page, one_page
from glmc.observe.timeline.readers.open import open_timeline
from glmc.observe.timeline.steps import select
from glmc.observe.timeline.table import Timeline
from glmc.observe.timeline.totals import totals
from tests.observe.page.browser import Opened, opened_page, running
from tests.observe.page.test_accessibility import serious_findings
from tests.observe.page.test_render import HOSTILE
from tests.observe.timeline.sample import VLLM, kernel, layered, timeline
from tests.support.thinned import thinned


def one(made: Timeline) -> str:
    return one_page(made, totals(made, select(made, None, None)))


def two(a: Timeline, b: Timeline) -> str:
    return diff_page(a, b, diff(a, b, None, None))


def test_one_real_timeline() -> None:
    html = one(open_timeline(VLLM))
    assert html == one(open_timeline(VLLM)), "the same file gives the same bytes"
    assert html.count("<rect") > 289 and "fused_moe_kernel" in html
    assert "Where the time of a step goes" in html and "12 by a period" in html
    assert 'content="glmc"' in html[:400], "--page writes over it"


def test_a_bar_leads_to_the_row_of_its_node() -> None:
    nodes = [kernel("gemv", at, 4, node=f"model.layers.{at // 5}.mlp.up#mm") for at in (0, 5, 10)]
    a = timeline(*nodes, kernel("nvjet", 20, 3))
    b = timeline(replace(nodes[0], name="other"), kernel("strange", 20, 3), label="b")
    html = two(a, b)
    rows = dict(re.findall(r'<tr id="row-(\d+)".*?<a class="id"[^>]*>([^<]*)</a>', html))
    (row,) = (number for number, name in rows.items() if name == "model.layers.*.mlp.up#mm")
    assert len(re.findall(rf'<rect [^>]*data-row="{row}"', html)) == 4
    assert "A alone" in html and "B alone" in html


def test_emulated_is_said_in_head_lanes_and_tables() -> None:
    made = with_layers(layered(3))
    emulated = replace(made, facts=replace(made.facts, emulated=True))
    html = one(emulated)
    assert '<b class="tag">emulated</b>' in html
    assert "emulated: times are those of a host" in html
    assert "Where the time of a step goes (emulated)" in html
    assert "emulated" not in one(made)
    assert "B, us (emulated)" in two(made, replace(emulated, label="b"))


def test_hostile_names_stay_text() -> None:
    events = [
        kernel(HOSTILE, 10.0 * at, 5, node=HOSTILE, module=HOSTILE, op=HOSTILE, passes=(HOSTILE,))
        for at in range(3)
    ]
    made = timeline(*events, label=HOSTILE, remarks=(HOSTILE,), model=HOSTILE, device=HOSTILE)
    for html in (one(made), two(made, made)):
        assert (
            html.count("</script>") == html.count("<script") == 2
            and "<img" not in html
            and "<!--" not in html
        )


def test_nothing_is_fetched() -> None:
    html = one(open_timeline(VLLM))
    assert "https:" not in html and "url(" not in html
    assert html.count("http:") == html.count('SVG = "http://www.w3.org/2000/svg"') == 1, "a name"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Closed before another module starts one: there is one at a time."""
    with running() as started:
        yield started


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    file = tmp_path / "page.html"
    vllm = open_timeline(VLLM)
    file.write_text(two(vllm, replace(vllm, label="b")), encoding="utf-8")
    with opened_page(browser, file) as made:
        yield made


def test_rows_and_bars_show_each_other(opened: Opened) -> None:
    view = opened.at()
    assert view.locator("rect.shown").count() == 0
    view.locator("#row-0 a").click()
    number = view.locator("rect.shown").count()
    assert number == view.locator('rect[data-row="0"]').count() > 0
    assert view.locator("tr.shown").get_attribute("id") == "row-0"
    view.locator('rect[data-row="1"]').first.dispatch_event("click", {"bubbles": True})
    view.wait_for_selector("tr#row-1.shown")
    assert view.url.endswith("#row-1")
    width = "document.getElementById('picture').getBoundingClientRect().width"
    before = view.evaluate(width)
    view.locator("#zoom").fill("10")
    assert view.evaluate(width) == pytest.approx(10 * before, rel=0.02)
    assert serious_findings(view) == []
    assert opened.complaints == []


# Wide and light it is in the other tests.
@pytest.mark.parametrize(
    ("width", "scheme"),
    thinned([(1280, "light"), (1280, "dark"), (390, "light")], long=[(1280, "light")]),
)
def test_it_is_seen_by_all(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    file = tmp_path / "page.html"
    file.write_text(one(open_timeline(VLLM)), encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    made = Opened(context.new_page(), file)
    view = made.at("#row-2")
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert serious_findings(view) == []
    assert made.complaints == []
    context.close()

"""What was measured after the compile, on its page in a real browser: by node, call and layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmc.observe.page.measured import NodeError, PlanTimes, Timed
from glmc.observe.page.render import page
from tests.observe.page.browser import Opened
from tests.observe.page.measurements import STEPS, aligned, gate, timed
from tests.observe.page.test_accessibility import LOOKS, serious_findings
from tests.observe.page.test_render import HOSTILE
from tests.observe.page.test_story import words
from tests.observe.sample import FACTS, history

NODE = f"#node={gate(1).replace('#', '%23')}"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("measured") / "index.html"
    place.write_text(page(history(), FACTS, timed(), aligned()), encoding="utf-8")
    return place


def last(row: str) -> list[str]:
    """The last two cells of a row."""
    return [cell.strip() for cell in row.split("\t")[-2:]]


def test_the_story_of_a_layer_has_errors_and_times(opened: Opened) -> None:
    view = opened.at("#layer=1")
    assert "2 calls in decode taking 2.00 ms (emulated), 2 calls in prefill." in words(
        view, "#view .lead"
    )
    assert words(view, "#view .verdict .bad") == (
        "Aligned with stock.h5 (emulated): 1 of 1 value is wrong, mlp.gate#topk, "
        "own: 2 of the bound in prefill."
    )
    calls = view.locator("#view table").last
    heads = [head.lower() for head in calls.locator("th").all_inner_texts()]
    assert heads[-2:] == ["time (emulated)", "error"]
    rows = [last(row) for row in calls.locator("tbody tr").all_inner_texts()]
    assert rows == [["1.00 ms", "own: 2 of the bound"], ["1.00 ms", ""], ["2.00 ms", ""]]
    links = calls.locator("tr").nth(1)
    assert links.locator("a.judgement").get_attribute("href") == "align.html#node=WRONG&step=0"
    assert links.locator("a", has_text="ms").get_attribute("href") == f"timeline.html{NODE}"
    note = view.locator("#view .note").last.inner_text()
    assert "the worst of the steps that were aligned with stock.h5 (emulated) (heat map)." in note
    assert f"Times are those of {STEPS} (emulated), from run.json (timeline)." in note


def test_a_layer_without_measurements_has_no_columns(opened: Opened) -> None:
    view = opened.at("#layer=2")
    assert "1 value as expected, ok: 0.2 of the bound" in words(view, "#view .verdict")
    view = opened.at("#layer=0")
    assert "Aligned with" not in words(view, "#view .verdict")
    heads = view.locator("#view table").last.locator("th").all_inner_texts()
    assert [head.lower() for head in heads][-1] == "time (emulated)"
    view = opened.at("#layer=1&kernels=prefill")
    heads = view.locator("#view table").last.locator("th").all_inner_texts()
    assert [head.lower() for head in heads][-2:] == ["buffers", "error"]


def test_a_node_shows_what_was_measured(opened: Opened) -> None:
    view = opened.at(NODE)
    section = view.locator("#panel section", has_text="Measured")
    assert section.inner_text().split("\n")[1:] == [
        "error",
        "own: 2 of the bound in prefill",
        "time in decode",
        "1.00 ms (emulated), 1 call",
    ]
    # A node of the capture has what was measured of the one that it became part of.
    view = opened.at("#node=model.layers.1.mlp.gate%23sigmoid")
    text = view.locator("#panel section", has_text="Measured").inner_text()
    assert f"own: 2 of the bound in prefill, of {gate(1)}" in text
    view = opened.at("#node=model.embed_tokens%23embedding&start")
    assert "error" not in view.locator("#panel section", has_text="Measured").inner_text()


def test_kernels_and_search_have_them_too(opened: Opened) -> None:
    view = opened.at("#kernels=decode&layer=1")
    row = view.locator("#view tbody tr").first.inner_text()
    assert last(row) == ["1.00 ms", "own: 2 of the bound"]
    view.fill("#search", "divergence")
    hit = view.locator("#results .hit").first
    assert hit.get_attribute("href") == NODE
    view.fill("#search", "slow")
    assert "1.00 ms (emulated)" in view.locator("#results").inner_text()


def test_without_their_pages_there_are_no_links(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "index.html"
    some: tuple[float | None, ...] = (None, 0.001, None, 0.002, None, None, None)
    times = Timed("run.json", "", {"decode": PlanTimes(some, STEPS, shown=False)})
    file.write_text(page(history(), FACTS, times, aligned("")), encoding="utf-8")
    seen = Opened(browser.new_page(), file)
    view = seen.at("#layer=1")
    rows = view.locator("#view table").last.locator("tbody tr").all_inner_texts()
    assert [last(row) for row in rows] == [
        ["2.00 ms", "own: 2 of the bound"],
        ["\N{EN DASH}", ""],
        ["2.00 ms", ""],
    ]
    assert view.locator("a.judgement, a[href*=html]").count() == 0
    seen.at("#layer=2")
    heads = view.locator("#view table").last.locator("th").all_inner_texts()
    assert "time" not in [head.lower() for head in heads]
    assert seen.complaints == []


def test_hostile_measurements_stay_text(browser: Any, tmp_path: Path) -> None:
    bad = NodeError(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    times = replace(timed(), label=HOSTILE, how=HOSTILE)
    errors = replace(aligned(), expected=HOSTILE, first=HOSTILE, nodes={gate(1): bad})
    html = page(history(), FACTS, times, errors)
    assert html.count("</script>") == html.count("<script") == 2 and "<img" not in html
    file = tmp_path / "hostile.html"
    file.write_text(html, encoding="utf-8")
    seen = Opened(browser.new_page(), file)
    for address in ("#layer=1", NODE, "#kernels=decode&layer=1"):
        assert HOSTILE.partition("\u2028")[0] in seen.at(address).locator("body").inner_text()
    assert seen.complaints == []


@pytest.mark.long
@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_no_serious_finding(browser: Any, shown: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen = Opened(context.new_page(), shown)
    for address in ("", "#layer=1", "#layer=2", "#kernels=decode&layer=1", NODE):
        view = seen.at(address)
        assert serious_findings(view) == [], address
        assert view.evaluate("document.documentElement.scrollWidth") <= width, address
    assert seen.complaints == []
    context.close()

"""The page of an alignment in a real browser: opened, clicked, walked by key, seen by all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmc.check.align.page import alignment_page
from glmc.check.align.result import Alignment
from tests.check.align.alignments import alignment, value
from tests.observe.page.browser import Opened
from tests.observe.page.test_accessibility import LOOKS, serious_findings
from tests.observe.page.test_render import HOSTILE

pytestmark = pytest.mark.long

WRONG = "#node=model.layers.1.self_attn%23attention"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("heat") / "align.html"
    html = alignment_page(alignment(), "dump/index.html")
    place.write_text(html, encoding="utf-8")
    return place


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_no_serious_finding(browser: Any, shown: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen = Opened(context.new_page(), shown)
    for address in ("", WRONG, "#name=model.layers.0.mlp.Glm4MoeMLP.0.forward_output.0"):
        view = seen.at(address)
        assert serious_findings(view) == [], address
        assert view.evaluate("document.documentElement.scrollWidth") <= width, address
    assert seen.complaints == []
    context.close()


def test_a_click_opens_the_details(opened: Opened) -> None:
    view = opened.at()
    assert view.locator("#panel").is_hidden()
    view.locator("#map-0 tbody a.own").click()
    view.wait_for_selector("#panel h2")
    assert view.url.endswith(f"{WRONG}&step=0")
    assert view.locator("#panel h2").inner_text() == "model.layers.1.self_attn#attention"
    text = view.locator("#panel").inner_text()
    for part in (
        "own: off by 0.2 where 0.1 is allowed",
        "modeling_glm4_moe.py:283 forward",
        "kunlun_ops.rope, kunlun_ops.attention",
        "rope_attention",
        "glmc inspect ARTIFACT --node 'model.layers.1.self_attn#attention'",
        "ULP, inherited",
    ):
        assert part in text
    bars = view.locator("#panel .ulps").first.locator("li").all_inner_texts()
    assert [bar.split() for bar in bars] == [["0", "60"], ["1", "3"], ["2", "1"]]
    row = view.locator("#panel tr", has_text="largest error").inner_text()
    assert row.split() == ["largest", "error", "0.25", "0.2", "0.05"]
    link = view.locator("#panel dd a.id").get_attribute("href")
    assert link == f"dump/index.html{WRONG}"
    view.locator("#panel .close").click()
    view.wait_for_selector("#panel", state="hidden")


def test_an_address_without_a_step_is_that_of_the_first_wrong_value(opened: Opened) -> None:
    view = opened.at(WRONG)
    assert "prefill" in view.locator("#panel .facts").inner_text()
    assert view.locator("#map-0 a[aria-current]").inner_text() == "O"
    gone = opened.at("#node=gone")
    assert "No value of this alignment" in gone.locator("#panel").inner_text()


def test_the_router_and_statistics(opened: Opened) -> None:
    view = opened.at("#name=model.layers.1.mlp.gate.Glm4MoeTopkRouter.0.forward_output.1&step=1")
    text = view.locator("#panel").inner_text()
    assert "6 of 8 tokens have the same experts; errors before do not explain the rest." in text
    assert "0.25\t0.001" in text
    other = opened.at("#name=model.layers.0.mlp.Glm4MoeMLP.0.forward_output.0&step=1")
    assert "mean\t0.125\t0.25" in other.locator("#panel").inner_text()


def test_cells_by_key(opened: Opened) -> None:
    view = opened.at()
    focused = "document.activeElement.dataset.value"
    view.locator("#map-0 a.heat").first.focus()
    seen = []
    keys = ("Right", "Right", "Down", "Right", "Up", "Down", "Down", "Down", "Down", "Left")
    for key in keys:
        view.keyboard.press(f"Arrow{key}")
        seen.append(view.evaluate(focused))
    # 0 embed; 1-3 layer 0; 4-8 layer 1; 9-13 layer 2; 14 the head. Above and below a column without
    # a further value is what stands before and after the table.
    assert seen == ["1", "2", "5", "6", "0", "1", "4", "9", "14", "13"]
    view.keyboard.press("Enter")
    view.wait_for_selector("#panel h2")
    assert "NaN 0 | 3" in view.locator("#panel").inner_text()
    view.keyboard.press("Escape")
    view.wait_for_selector("#panel", state="hidden")
    assert view.evaluate(focused) == "13"


def test_hostile_names_stay_text(browser: Any, tmp_path: Path) -> None:
    bad = value(HOSTILE, node=HOSTILE, source=HOSTILE, passes=(HOSTILE,), reason=HOSTILE)
    made = Alignment(
        HOSTILE, HOSTILE, ({}, {}), (bad, replace(bad, step=1)), ((), ()), (HOSTILE,), HOSTILE
    )
    file = tmp_path / "hostile.html"
    file.write_text(alignment_page(made), encoding="utf-8")
    seen = Opened(browser.new_page(), file)
    view = seen.at()
    view.locator("a.heat").last.click()
    view.wait_for_selector("#panel h2")
    assert view.locator("#panel h2").text_content() == HOSTILE
    assert view.locator("#map-1 a[aria-current]").count() == 1
    assert seen.complaints == []

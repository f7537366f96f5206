"""The page in a real browser: opened from disk, searched, clicked through to the kernel call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmc.observe.page.render import page
from tests.observe.page.browser import Opened, running
from tests.observe.page.test_render import hostile
from tests.observe.sample import GUARDS, LIMITS, PHASES, history

GATE = "model.layers.2.mlp.gate#topk"
LINEAR = "model.layers.2.mlp.gate#linear"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def here(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    file = tmp_path_factory.mktemp("page") / "index.html"
    file.write_text(page(history(), GUARDS, LIMITS, PHASES), encoding="utf-8")
    made = Opened(browser.new_page(viewport={"width": 1280, "height": 900}), file)
    yield made
    assert made.complaints == []


def test_list_of_passes(here: Opened) -> None:
    rows = here.at().locator("#pipeline tbody tr").all_inner_texts()
    assert len(rows) == 5
    words = rows[2].split()
    assert words[1] == "moe_gate" and "250" in words and "not" in words
    assert "3 of 3" in " ".join(words)


def test_search_for_a_gate_and_click_through_to_the_kernel(here: Opened) -> None:
    view = here.at()
    view.keyboard.press("/")
    view.keyboard.type("2 moe_gate")
    first = view.locator("#results li").first
    assert "mlp.gate#topk" in first.inner_text()
    view.keyboard.press("Enter")
    view.wait_for_selector("#panel h2")
    assert view.locator("#panel h2").inner_text() == GATE
    text = view.locator("#panel").inner_text()
    assert "modeling_glm4_moe.py:283 forward" in text and "mlp.gate#sigmoid" in text
    view.locator("#panel .call a", has_text="kunlun_ops.gate").last.click()
    view.wait_for_selector("#view tr.chosen")
    assert "kernels=decode" in view.url
    row = view.locator("#view tr.chosen").inner_text()
    assert row.split()[0] == "5" and "kunlun_ops.gate" in row and "sizes=[8, 2]" in row
    assert view.locator("tr.chosen .written").inner_text() == "out=mlp.gate#topk"
    assert "called one by one" in text and "in a device graph" not in text


@pytest.mark.parametrize("address", [f"#node={LINEAR}", f"#node={LINEAR.replace('#', '%23')}"])
def test_link_of_a_node_that_a_pass_took_up(here: Opened, address: str) -> None:
    view = here.at(address)
    text = view.locator("#panel").inner_text()
    assert view.locator("#panel h2").inner_text() == LINEAR
    assert f"part of {GATE}" in " ".join(text.split())
    assert "moe_gate rewritten" in text and "kunlun_ops.gate" in text
    assert view.locator("#view svg .chosen title").text_content() == LINEAR
    view.keyboard.press("Escape")
    view.wait_for_selector("#panel", state="hidden")


def test_link_of_no_node(here: Opened) -> None:
    text = here.at("#node=model.layers.1.mlp.gate%23nothing").locator("#panel").inner_text()
    assert "No step of this compile has a node with this id." in text


def test_before_and_after(here: Opened) -> None:
    view = here.at("#pass=moe_gate&layer=2")
    assert view.locator(".diff .cell.left.removed").count() == 2
    assert view.locator(".diff .cell.right.changed").get_attribute("data-id") == "mlp.gate#topk"
    chips = view.locator(".chips a").all_inner_texts()
    assert ["".join(one.split()) for one in chips] == [
        "outsidethelayers\u2013",
        "layer03",
        "layers1..23",
    ]
    view.wait_for_selector(".joins path", state="attached")
    view.keyboard.press("]")
    # The address changes first, the view a task later.
    view.wait_for_selector(".diff:has-text('before, as moe_gate left it')")
    assert "pass=prefill" in view.url


def test_picture_reads_from_top_to_bottom(here: Opened) -> None:
    view = here.at("#graph=1&step=capture")
    boxes = view.locator("#view svg .box")
    tops = {box.locator("title").text_content(): box.bounding_box()["y"] for box in boxes.all()}
    road = ["0.mlp#add", "1.mlp.gate#linear", "1.mlp.gate#sigmoid", "1.mlp.gate#topk", "1.mlp#add"]
    places = [tops[f"model.layers.{name}"] for name in road]
    assert places == sorted(set(places))
    assert view.locator("#view svg .lines path").count() == 6


def test_memory_marks_the_peak(here: Opened) -> None:
    view = here.at("#memory=prefill")
    assert view.locator(".chart").first.locator(".buffer").count() == 4
    assert view.locator(".chart text.peak").first.text_content() == "peak, call 1"
    assert "128 B alive at once, at call 1" in view.locator("#view p").first.inner_text()


def test_checks(here: Opened) -> None:
    text = here.at("#checks").locator("#checks").inner_text()
    assert "as expected" in text and "the scores have one reader" in text
    assert "kunlun_ops.gate" in text and "at most 64 tokens" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_and_hostile(browser: Any, tmp_path: Path, scheme: str) -> None:
    file = tmp_path / "index.html"
    file.write_text(page(hostile(), GUARDS, LIMITS, PHASES), encoding="utf-8")
    viewport = {"width": 800, "height": 900}
    made = Opened(browser.new_page(viewport=viewport, color_scheme=scheme), file)
    for address in ("", "#pass", "#graph", "#kernels", "#memory=decode", "#checks", "#node=%"):
        wide = made.at(address).evaluate("document.documentElement.scrollWidth")
        assert wide <= 800, address
    assert made.complaints == []


def test_without_plans(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "index.html"
    file.write_text(page(replace(history(), plans=(), target="")), encoding="utf-8")
    made = Opened(browser.new_page(), file)
    for address in ("#kernels", "#memory"):
        assert "This compile has no plan" in made.at(address).locator("#view").inner_text()
    text = made.at(f"#node={GATE}").locator("#panel").inner_text()
    assert "it was not lowered" in text
    assert made.complaints == []

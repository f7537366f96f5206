"""The story of a layer and the words that lead to it, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmc.observe.page.render import page
from tests.observe.page.browser import Opened
from tests.observe.page.measurements import timed
from tests.observe.page.test_start import whole_pipeline
from tests.observe.sample import FACTS, history


def words(view: Any, selector: str) -> str:
    return " ".join(view.locator(selector).first.inner_text().split())


def test_a_number_and_enter_tell_the_story(here: Opened) -> None:
    view = here.at()
    view.keyboard.press("/")
    view.keyboard.type("1")
    view.keyboard.press("Enter")
    view.wait_for_selector("#view h1:has-text('Layer 1')")
    assert words(view, "#view .lead") == (
        "Like layer 2: 4 to 2 nodes by moe_gate, 2 calls in decode, 2 calls in prefill."
    )
    verdict = words(view, "#view .verdict")
    assert "Match counts as expected, no near miss." in verdict
    assert "Not proved. This proves it: glmc compile PATH/toy-moe --target xpu" in verdict
    tables = view.locator("#view table")
    assert "verdict on the whole model" in words(view, "#view table thead").lower()
    assert tables.first.locator("tbody tr").all_inner_texts()[0].split() == (
        "moe_gate bitwise aten.linear, aten.sigmoid, aten.topk glmc.moe_gate 2 not proved "
        "before/after".split()
    )
    calls = [row.split() for row in tables.last.locator("tbody tr").all_inner_texts()]
    assert calls[0] == ["3", "kunlun_ops.gate", "moe_gate", "moe_gate", "64", "B", "128", "B"]
    assert calls[-1] == ["2", "calls", "64", "B", "256", "B"]
    assert "No timeline is at hand" in view.locator("#view").inner_text()
    tables.first.locator("a", has_text="before/after").click()
    view.wait_for_selector("#view .diff")
    assert "pass=moe_gate&layer=1" in view.url


def test_a_near_miss_of_the_layer_is_part_of_its_verdict(here: Opened) -> None:
    view = here.at("#layer=2")
    assert "1 near miss here" in words(view, "#view .verdict .bad")
    assert "the scores have one reader" in words(view, "#view .near")
    view.keyboard.press("p")
    view.wait_for_selector("#view h1:has-text('Layer 1')")
    assert view.locator("#view .verdict .bad").count() == 0


def test_a_row_of_layers_leads_to_the_story(here: Opened) -> None:
    view = here.at()
    cells = view.locator(".layers a")
    assert cells.all_inner_texts() == ["0", "1", "2"]
    cells.first.focus()
    view.keyboard.press("ArrowRight")
    view.keyboard.press("Enter")
    view.wait_for_selector("#view h1:has-text('Layer 1')")


def test_a_proof_and_times_are_told_where_there_are_any(browser: Any, tmp_path: Path) -> None:
    made = whole_pipeline("bitwise: equal on 6 inputs")
    fused = replace(history().steps[2], verdict="bitwise: equal on 6 inputs")
    file = tmp_path / "index.html"
    proved = replace(made, steps=(made.steps[0], fused, *made.steps[-2:]))
    file.write_text(page(proved, FACTS, replace(timed(), how="")), encoding="utf-8")
    opened = Opened(browser.new_page(), file)
    view = opened.at("#layer=1")
    assert "Proved: 1 pass on real tensors." in words(view, "#view .verdict")
    assert view.locator("#view table").last.locator("tr").last.inner_text().split()[-2:] == [
        "2.00",
        "ms",
    ]
    assert opened.complaints == []


@pytest.fixture(scope="module")
def box(here: Opened) -> Iterator[Any]:
    yield here.at()


@pytest.mark.parametrize(
    ("text", "first", "address"),
    [
        ("peak", "peak of decode", "memory=decode"),
        ("near miss", "near misses", "checks"),
        ("memory", "memory of decode", "memory=decode"),
        ("why", "near misses", "checks"),
        ("slow", "slowest calls", "kernels=decode"),
        ("Verdict?", "verdict", "checks"),
        ("layer 1 moe_gate", "moe_gate in layer 1", "pass=moe_gate&layer=1"),
        ("what happened to layer 1?", "layer 1", "layer=1"),
        ("layer 2 why", "layer 2", "layer=2"),
        ("sigmoid", "mlp.gate#sigmoid", "node="),
        ("kunlun_ops", "kunlun_ops.gate", "kernels=prefill"),
    ],
)
def test_words_lead_somewhere(box: Any, text: str, first: str, address: str) -> None:
    box.fill("#search", text)
    hit = box.locator("#results .hit").first
    assert hit.locator(".title").inner_text() == first
    assert address in hit.get_attribute("href")


def test_nothing_of_that_name(box: Any) -> None:
    box.fill("#search", "zebra")
    assert "Nothing of that name" in box.locator("#results").inner_text()

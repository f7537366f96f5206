"""The page in a real browser: opened from disk, searched, clicked through to the kernel call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmc.observe.history.record import History
from glmc.observe.page.render import page
from tests.observe.page.browser import Opened
from tests.observe.page.test_render import hostile
from tests.observe.sample import ADDED, FACTS, WEIGHT, history, node, step
from tests.observe.sample import GATE as GATE_NODE

GATE = "model.layers.2.mlp.gate#topk"
LINEAR = "model.layers.2.mlp.gate#linear"
VIEWS = ("", "#layer=2", "#pass", "#graph", "#kernels", "#memory=decode", "#checks")


def test_list_of_passes(here: Opened) -> None:
    rows = here.at().locator("#section-start tbody tr").all_inner_texts()
    assert len(rows) == 5 + 2, "the lowering of each phase is a step"
    words = rows[2].split()
    assert words[1] == "moe_gate" and "250" in words and "not" in words
    assert "3 of 3" in " ".join(words)


def test_search_for_a_gate_and_click_through_to_the_kernel(here: Opened) -> None:
    view = here.at()
    view.keyboard.press("/")
    view.keyboard.type("2 topk")
    first = view.locator("#results .hit").first
    assert "mlp.gate#topk" in first.inner_text()
    view.keyboard.press("Enter")
    view.wait_for_selector("#panel h2")
    assert view.locator("#panel h2").inner_text() == GATE
    text = view.locator("#panel").inner_text()
    assert "modeling_glm4_moe.py:283 forward" in text and "mlp.gate#sigmoid" in text
    view.locator("#panel .call a", has_text="kunlun_ops.gate").last.click()
    view.wait_for_selector("#view tr.current")
    assert "kernels=decode" in view.url
    row = view.locator("#view tr.current").inner_text()
    assert row.split()[0] == "5" and "kunlun_ops.gate" in row and "sizes=[8, 2]" in row
    assert view.locator("tr.current .written").inner_text() == "out=mlp.gate#topk"
    assert "called one by one" in text and "in a device graph" not in text


@pytest.mark.parametrize("address", [f"#node={LINEAR}", f"#node={LINEAR.replace('#', '%23')}"])
def test_link_of_a_node_that_a_pass_took_up(here: Opened, address: str) -> None:
    view = here.at(address)
    text = view.locator("#panel").inner_text()
    assert view.locator("#panel h2").inner_text() == LINEAR
    assert f"part of {GATE}" in " ".join(text.split())
    assert "moe_gate rewritten" in text and "kunlun_ops.gate" in text
    assert view.locator("#view svg .current title").text_content() == LINEAR
    view.keyboard.press("Escape")
    view.wait_for_selector("#panel", state="hidden")


def test_link_of_no_node(here: Opened) -> None:
    text = here.at("#node=model.layers.1.mlp.gate%23nothing").locator("#panel").inner_text()
    assert "No step of this compile has a node with this id." in text


def test_before_and_after(here: Opened) -> None:
    view = here.at("#pass=moe_gate&layer=2")
    assert "aten.linear, aten.sigmoid, aten.topk became glmc.moe_gate." in " ".join(
        view.locator(".effect").inner_text().split()
    )
    assert view.locator(".diff .cell.left.removed").count() == 2
    right = view.locator(".diff .cell.right.changed")
    assert right.get_attribute("data-id") == "mlp.gate#topk"
    old = view.locator(".diff .cell.left.removed").first
    assert right.bounding_box()["y"] == old.bounding_box()["y"], "what is new is at the top"
    chips = view.locator(".chips a").all_inner_texts()
    assert ["".join(each.split()) for each in chips] == [
        "outsidethelayersunchanged",
        "layer03changes",
        "layers1..23changes",
    ]
    view.wait_for_selector(".joins path", state="attached")
    view.keyboard.press("]")
    # The address changes first, the view a task later.
    view.wait_for_selector(".diff:has-text('before, as moe_gate left it')")
    assert "pass=prefill" in view.url


def test_passes_open_on_the_first_that_changes_something(here: Opened) -> None:
    view = here.at("#pass")
    assert view.locator("#view h1").inner_text().split()[0] == "moe_gate"
    captured = here.at("#pass=capture&layer=1")
    assert captured.locator(".diff .cell").count() == 5
    assert captured.locator(".diff .right").count() == 0, "there is nothing beside it"


def test_picture_reads_from_top_to_bottom(here: Opened) -> None:
    view = here.at("#graph=1&step=capture")
    boxes = view.locator("#view svg .box")
    tops = {box.locator("title").text_content(): box.bounding_box()["y"] for box in boxes.all()}
    road = ["0.mlp#add", "1.mlp.gate#linear", "1.mlp.gate#sigmoid", "1.mlp.gate#topk", "1.mlp#add"]
    places = [tops[f"model.layers.{name}"] for name in road]
    assert places == sorted(set(places))
    assert view.locator("#view svg .lines path").count() == 6


def test_boxes_name_their_pass_and_hold_their_text(here: Opened) -> None:
    view = here.at("#graph=1&step=moe_gate")
    made = view.locator("#view svg .box.made")
    assert made.locator(".maker").text_content() == "moe_gate"
    assert "made or changed by moe_gate" in view.locator("#view .legend").inner_text()
    assert view.evaluate(
        """() => [...document.querySelectorAll('#view svg a')].every(box => {
            const frame = box.querySelector('rect').getBoundingClientRect();
            return [...box.querySelectorAll('text')].every(text => {
                const own = text.getBoundingClientRect();
                return own.left >= frame.left && own.right <= frame.right;
            });
        })"""
    )


def test_outputs_are_ports_of_their_producer(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "index.html"
    file.write_text(page(with_outputs(), FACTS), encoding="utf-8")
    made = Opened(browser.new_page(), file)
    view = made.at("#graph=1&step=moe_gate")
    assert view.locator("#view svg .port text").all_text_contents() == [
        "0: [tokens, 8] float32",
        "1: [tokens, 8] float32",
    ]
    assert "getitem" not in view.locator("#view svg").text_content()
    view.locator("#view svg .port").last.click()
    assert view.locator("#panel h2").inner_text() == "model.layers.1.mlp.gate#topk[1]"
    assert made.complaints == []


def with_outputs() -> History:
    """The gate has two outputs, of which the sum reads one."""
    outputs = [
        node(
            f"mlp.gate#topk[{at}]", "getitem", ("mlp.gate#topk",), arguments=f"mlp.gate#topk, {at}"
        )
        for at in (1, 0)
    ]
    added = replace(ADDED, operands=("mlp.gate#topk[1]", "previous:mlp#add"))
    made = history()
    fused = step(2, "moe_gate", (WEIGHT, GATE_NODE, *outputs, added), numerics="bitwise")
    return replace(made, steps=(*made.steps[:2], fused))


def test_memory_marks_the_peak(here: Opened) -> None:
    view = here.at("#memory=prefill")
    assert view.locator(".chart").first.locator(".buffer").count() == 4
    assert view.locator(".chart text.peak").first.text_content() == "peak, call 1"
    text = view.locator("#view").inner_text()
    assert "128 B alive at once, at call 1" in text
    assert "place in the arena" in view.locator(".chart").first.text_content()
    assert view.locator("#view .legend").inner_text().split() == ["moe_gate", "embedding"]
    sums = [" ".join(each.split()) for each in view.locator(".sums div").all_inner_texts()]
    assert sums == [
        "weights 4.0 KiB",
        "cache 13.5 KiB 96 B a token, 2 sequences of 64 tokens",
        "arena 128 B shared by all phases, at the largest bucket",
    ]


def test_checks(here: Opened) -> None:
    text = here.at("#checks").locator("#section-checks").inner_text()
    assert "as expected" in text and "the scores have one reader" in text
    assert "kunlun_ops.gate" in text and "at most 64 tokens" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_and_hostile(browser: Any, tmp_path: Path, scheme: str) -> None:
    file = tmp_path / "index.html"
    file.write_text(page(hostile(), FACTS), encoding="utf-8")
    width = {"light": 390, "dark": 800}[scheme]
    viewport = {"width": width, "height": 900}
    made = Opened(browser.new_page(viewport=viewport, color_scheme=scheme), file)
    for address in (*VIEWS, "#node=%"):
        wide = made.at(address).evaluate("document.documentElement.scrollWidth")
        assert wide <= width, address
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

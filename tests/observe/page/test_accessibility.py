"""The page for those who don't use a mouse or see it otherwise: axe-core, keys, and paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.observe.page.browser import Opened, without
from tests.observe.page.test_page import GATE, VIEWS

pytestmark = pytest.mark.long

SERIOUS = ("serious", "critical")
# The width of each view's page, and its colours: every width and scheme is seen.
LOOKS = ((1280, "light"), (1440, "dark"), (390, "light"))


def axe() -> str:
    """The script of axe-core; a test without it fails where browsers are required."""
    try:
        from axe_playwright_python.base import AXE_SCRIPT
    except ImportError:
        return without("the package axe-playwright-python is not installed")
    return str(AXE_SCRIPT)


def serious_findings(view: Any) -> list[tuple[str, str]]:
    """What axe-core finds on a page, and the first element that it finds it at."""
    view.evaluate(axe())
    report = view.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        (each["id"], each["nodes"][0]["html"][:120])
        for each in report["violations"]
        if each["impact"] in SERIOUS
    ]


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_no_serious_finding(browser: Any, file: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened = Opened(context.new_page(), file)
    for address in (*VIEWS, f"#graph=2&node={GATE.replace('#', '%23')}"):
        assert serious_findings(opened.at(address)) == [], address
    assert opened.complaints == []
    context.close()


def test_a_finding_is_found(here: Opened) -> None:
    view = here.at("#checks")
    view.evaluate("document.getElementById('search').removeAttribute('aria-label')")
    view.evaluate("document.getElementById('search').removeAttribute('placeholder')")
    assert [name for name, _ in serious_findings(view)] == ["label"]


def test_everything_by_key(here: Opened) -> None:
    view = here.at()
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.id") == "skip"
    view.keyboard.press("Enter")
    assert view.evaluate("document.activeElement.id") == "content"
    for key, name in zip(
        "2345671", "layer pass graph kernels memory checks start".split(), strict=True
    ):
        view.keyboard.press(key)
        view.wait_for_selector(f"#tabs a[data-view={name}][aria-current=page]")
    view.keyboard.press("?")
    view.wait_for_selector("#help[open]")
    assert "search" in view.locator("#help").inner_text()
    view.keyboard.press("Escape")
    view.wait_for_selector("#help", state="hidden")


def test_the_heading_of_a_node_is_on_top_and_focus_comes_back(here: Opened) -> None:
    view = here.at("#kernels=decode&layer=2")
    view.set_viewport_size({"width": 1280, "height": 260})
    link = view.locator("#view td a.id").first
    link.focus()
    view.keyboard.press("Enter")
    view.wait_for_selector("#panel h2")
    assert view.evaluate("document.activeElement.id") == "panel"
    covered = view.evaluate(
        """() => {
            const panel = document.getElementById('panel');
            const box = panel.querySelector('header').getBoundingClientRect();
            for (let top = 0; top < panel.scrollHeight; top += 40) {
                panel.scrollTop = top;
                for (let y = box.top + 2; y < box.bottom - 2; y += 6) {
                    const there = document.elementFromPoint(box.left + 12, y);
                    if (!there.closest('#panel header')) return there.outerHTML;
                }
            }
            return '';
        }"""
    )
    assert covered == ""
    view.keyboard.press("Escape")
    view.wait_for_selector("#panel", state="hidden")
    assert view.evaluate("document.activeElement.className") == "id"
    view.set_viewport_size({"width": 1280, "height": 900})


def test_on_paper_there_are_no_controls_and_nothing_is_folded(here: Opened) -> None:
    view = here.at("#pass=moe_gate&layer=1")
    view.emulate_media(media="print")
    view.evaluate("dispatchEvent(new Event('beforeprint'))")
    for control in ("#tabs", ".search", ".bar"):
        assert view.locator(control).first.is_hidden(), control
    assert view.locator("#view details li").first.is_visible()
    assert view.evaluate("getComputedStyle(document.getElementById('top')).position") == "static"
    view.emulate_media(media="screen")

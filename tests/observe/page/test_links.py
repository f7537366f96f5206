"""Three pages in a real browser: from the heat map and the timeline to a node on the page of the
compile and back, also where the files were moved together."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from glmc.check.align.page import alignment_page
from glmc.observe.page.aligned import read_aligned
from glmc.observe.page.linked import compile_page
from glmc.observe.page.render import page
from glmc.observe.timeline.page import one_page
from glmc.observe.timeline.steps import select
from glmc.observe.timeline.timed import read_timed
from glmc.observe.timeline.totals import totals
from tests.observe.page.alignment_of_sample import sample_alignment
from tests.observe.page.browser import Opened
from tests.observe.page.measurements import gate
from tests.observe.page.test_accessibility import LOOKS, serious_findings
from tests.observe.sample import FACTS, history
from tests.observe.timeline.toy import toy_timeline

NODE = f"#node={gate(1).replace('#', '%23')}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a compile in a folder of its own, the others beside that, all moved."""
    root = tmp_path_factory.mktemp("links") / "first"
    (root / "dump").mkdir(parents=True)
    compiled, heat, timeline = root / "dump" / "index.html", root / "a b.html", root / "time.html"
    compiled.write_text(page(history(), FACTS), encoding="utf-8")
    alignment, times = sample_alignment(), toy_timeline()
    heat.write_text(
        alignment_page(alignment, compile_page(compiled, heat).address), encoding="utf-8"
    )
    made = totals(times, select(times, "decode", None))
    timeline.write_text(
        one_page(times, made, compile_page(compiled, timeline).address), encoding="utf-8"
    )
    timed = read_timed(timeline, history(), compiled)
    aligned = read_aligned(heat, history(), compiled)
    compiled.write_text(page(history(), FACTS, timed, aligned), encoding="utf-8")
    return Path(shutil.move(root, root.parent / "second"))


@pytest.fixture
def shown(folder: Path) -> Path:
    """The heat map, from which a test starts."""
    return folder / "a b.html"


def test_from_the_heat_map_to_the_node_and_back(opened: Opened) -> None:
    view = opened.at()
    cell = view.locator(f'a.heat[href^="{NODE}"]').first
    number = cell.get_attribute("data-value")
    cell.click()
    view.locator("#panel dd a.id").click()
    view.wait_for_url(f"**/second/dump/index.html{NODE}")
    assert view.locator("#panel h2").inner_text() == gate(1)
    view.locator("#panel a.judgement").click()
    view.wait_for_url(f"**/second/a%20b.html{NODE}&name=*&step=0")
    assert view.locator("a.heat[aria-current]").get_attribute("data-value") == number


def test_from_the_story_to_the_event_and_back(opened: Opened, folder: Path) -> None:
    opened.file = folder / "dump" / "index.html"
    view = opened.at("#layer=1")
    row = view.locator("#view table").last.locator("tbody tr").first
    assert row.inner_text().split("\t")[-2].strip() == "4.0 µs"
    row.locator("td.number a").click()
    view.wait_for_url(f"**/second/time.html{NODE}")
    assert view.locator("#picked").inner_text().startswith(f"{gate(1)} 4.0 us (emulated)")
    assert view.locator("rect.shown").count() == 1
    assert view.locator("tr.shown a").inner_text() == "model.layers.*.mlp.gate#topk"
    assert view.evaluate("document.activeElement.id") == "picked"
    view.locator("#picked a", has_text="page of the compile").click()
    view.wait_for_url(f"**/second/dump/index.html{NODE}")
    text = view.locator("#panel section", has_text="Measured").inner_text()
    assert "4.0 µs (emulated), 1 call" in text and "9.0 µs (emulated), 1 call" in text


def test_a_bar_a_row_and_a_key_lead_to_a_node(opened: Opened, folder: Path) -> None:
    opened.file = folder / "time.html"
    view = opened.at()
    assert view.locator("#picked").is_hidden()
    view.locator("rect[data-node]").nth(3).dispatch_event("click", {"bubbles": True})
    view.wait_for_selector("#picked code")
    assert view.url.endswith(NODE)
    view.locator("#picked a", has_text="its row").click()
    view.wait_for_selector("tr.of a")
    assert view.locator("#picked").is_hidden() and view.locator("rect.shown").count() == 3
    assert view.locator("tr.of li").all_inner_texts() == [
        f"layer {layer} {2 + 2 * layer:.1f} us (emulated)" for layer in range(3)
    ]
    view.locator("tr.of a", has_text="layer 2").focus()
    view.keyboard.press("Enter")
    view.wait_for_selector(f"#picked code:has-text('{gate(2)}')")
    assert view.locator("tr.of").count() == 0
    gone = opened.at("#node=gone")
    assert "No event of this step has this node." in gone.locator("#picked").inner_text()


@pytest.mark.long
@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_no_serious_finding(browser: Any, folder: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen = Opened(context.new_page(), folder / "time.html")
    for address in ("", NODE, "#row-0", "#node=gone"):
        view = seen.at(address)
        assert serious_findings(view) == [], address
        assert view.evaluate("document.documentElement.scrollWidth") <= width, address
    assert seen.complaints == []
    context.close()

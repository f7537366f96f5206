"""The page of a real compile: written by ``--dump``, small, and whole down to the kernel call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glmc.cli.main import main
from tests.observe.page.browser import Opened
from tests.observe.page.test_render import embedded
from tests.support.command import ROOT, SMALL

pytestmark = pytest.mark.usefixtures("shared_captures")
GATE = "model.layers.2.mlp.gate#gather"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("compiled")
    model = str(ROOT / "models" / "tiny-moe")
    output = ("--dump", str(place / "dump"), "--output", str(place / "artifact"))
    assert main(["compile", model, "--target", "xpu", "--no-weights", *SMALL, *output]) == 0
    return place / "dump"


def test_one_small_file_beside_the_others(folder: Path) -> None:
    html = (folder / "index.html").read_text(encoding="utf-8")
    assert len(html) < 300_000
    data = embedded(html)
    assert [step["name"] for step in data["steps"]][-2:] == ["prefill", "decode"]
    assert {step["label"] for step in data["steps"]} <= {file.stem for file in folder.iterdir()}
    for plan in data["plans"]:
        used = max(start + size for *_, start, size, _, _ in plan["buffers"])
        assert used <= plan["arenaBytes"]
        calls = sum(len(block["calls"]) * (1 + len(block["like"])) for block in plan["blocks"])
        runs = [run for block in plan["blocks"] for layer in block["indices"] for run in layer]
        numbers = sorted(number for first, count in runs for number in range(first, first + count))
        assert numbers == list(range(calls)), "each call stands in one layer"


def test_from_the_gate_to_its_kernel(browser: Any, folder: Path) -> None:
    made = Opened(browser.new_page(), folder / "index.html")
    view = made.at()
    assert "as often as the model must have it" in view.locator(".verdict").first.inner_text()
    view.fill("#search", "2 moe_gate gather")
    view.locator("#results .hit", has_text="glmc.moe_gate").first.click()
    panel = view.locator("#panel")
    panel.locator("h2", has_text=GATE).wait_for()
    assert panel.locator("h3").all_inner_texts()[:3] == ["Passes", "Kernel calls", "Source lines"]
    panel.locator("summary").click()
    sources = panel.locator(".source").all_inner_texts()
    lines = [int(text.split(":")[1].split()[0]) for text in sources if ":" in text]
    assert len(lines) > 3
    assert lines == sorted(lines) and "aten.sigmoid" in panel.inner_text()
    panel.locator(".call a", has_text="topk").last.click()
    row = view.locator("#view tr.current")
    row.wait_for()
    assert "moe_sigmoid_group_topk_norm" in row.inner_text()
    for name in ("capture", "moe_gate", "decode"):
        assert made.at(f"#pass={name}").locator(".diff .cell").count() > 0
        assert made.at(f"#graph=2&step={name}").locator("#view svg .box").count() > 5
    assert made.complaints == []

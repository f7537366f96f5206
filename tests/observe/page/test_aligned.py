"""An alignment read by node: from its page, from its JSON, and what is no alignment of this."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmc.check.align.json_form import alignment_to_json
from glmc.check.align.page import alignment_page
from glmc.errors import UsageError
from glmc.observe.page.aligned import BY_NODE, read_aligned
from glmc.observe.page.render import page
from tests.cli.test_damaged import damage
from tests.observe.page.alignment_of_sample import sample_alignment
from tests.observe.page.measurements import gate
from tests.observe.sample import FACTS, history


def written(folder: Path, name: str = "align.html") -> Path:
    path = folder / name
    made = sample_alignment()
    html = name.endswith(".html")
    text = alignment_page(made) if html else json.dumps(alignment_to_json(made))
    path.write_text(text, encoding="utf-8")
    return path


def test_a_page_and_its_json_say_the_same(tmp_path: Path) -> None:
    target = tmp_path / "index.html"
    of_page = read_aligned(written(tmp_path), history(), target)
    of_json = read_aligned(written(tmp_path, "align.json"), history(), target)
    assert of_page == replace(of_json, page="align.html") and of_json.page == ""
    assert of_page.expected == "stock.h5" and of_page.emulated
    assert of_page.first == "model.layers.1.self_attn#attention"
    assert of_page.nodes[gate(1)].verdict == "ok"


def test_another_compile_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    other = replace(history(), target="cuda")
    with pytest.raises(UsageError, match="of another compile") as raised:
        read_aligned(path, other, tmp_path / "index.html")
    assert raised.value.expected == "a side that is toy-moe for cuda"
    assert raised.value.found == "toy-moe for eager, toy-moe for xpu"
    with pytest.raises(UsageError, match="of another compile") as raised:
        read_aligned(path, replace(history(), steps=()), tmp_path / "index.html")
    assert raised.value.found == "values of no node of it"


def test_what_is_no_alignment_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content in ("", "[]", "{}", '{"by_node": 1}', "x"):
        path.write_text(content)
        with pytest.raises(UsageError, match="no alignment that this release reads"):
            read_aligned(path, history(), tmp_path / "index.html")
    path.write_text(page(history(), FACTS), encoding="utf-8")
    with pytest.raises(UsageError, match="not the page of an alignment"):
        read_aligned(path, history(), tmp_path / "index.html")


def test_damaged_data_is_an_error_of_ours_or_read(tmp_path: Path) -> None:
    whole = json.loads(written(tmp_path, "align.json").read_text())
    path, luck = tmp_path / "damaged", random.Random(0)
    refused = 0
    for _ in range(60):
        data: dict[str, Any] = json.loads(json.dumps({BY_NODE: whole[BY_NODE]}))
        damage(data, luck)
        path.write_text(json.dumps(data))
        try:
            read = read_aligned(path, history(), tmp_path / "index.html")
        except UsageError:
            refused += 1
        else:
            page(history(), FACTS, None, read).encode(errors="surrogatepass")
    assert refused > 20

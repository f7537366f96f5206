"""An alignment by node: of several values of a node the worst, and the address of its cell."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

from glmc.check.align.by_node import by_node, sides
from glmc.check.align.json_form import alignment_to_json
from glmc.check.align.page import alignment_page
from glmc.check.align.result import Verdict
from tests.check.align.alignments import alignment, difference
from tests.observe.page.test_render import embedded

ATTENTION = "model.layers.1.self_attn#attention"


def test_every_node_once_with_its_worst_value() -> None:
    made = by_node(alignment())
    nodes = [f"model.layers.{layer}.self_attn#attention" for layer in range(3)]
    assert set(made["nodes"]) == {*nodes, *(f"model.layers.{at}.mlp.gate#topk" for at in (1, 2))}
    assert made["nodes"][ATTENTION] == {
        "verdict": "own",
        "error": "2 of the bound",
        "step": "prefill",
        "address": "#node=model.layers.1.self_attn%23attention&step=0",
    }
    assert made["first"] == ATTENTION and made["emulated"] and made["expected"] == "stock.h5"


def test_a_later_step_may_be_worse() -> None:
    values = tuple(
        replace(each, total=difference(0.5), verdict=Verdict.FAIL)
        if each.node == "model.layers.2.mlp.gate#topk" and each.step and each.name.endswith("1")
        else each
        for each in alignment().values
    )
    found = by_node(replace(alignment(), values=values))["nodes"]["model.layers.2.mlp.gate#topk"]
    assert (found["verdict"], found["step"]) == ("fail", "decode 1")
    assert found["address"].endswith("forward_output.1&step=1")


def test_addresses_are_those_of_cells() -> None:
    html = alignment_page(alignment())
    cells = set(map(unescape, re.findall(r'<a class="heat[^>]* href="([^"]*)"', html)))
    assert {each["address"] for each in by_node(alignment())["nodes"].values()} < cells


def test_page_and_json_have_it() -> None:
    made = alignment()
    data = alignment_to_json(made)["by_node"]
    assert data == embedded(alignment_page(made))["by_node"]
    assert data["nodes"] == by_node(made)["nodes"]


def test_without_a_divergence_and_without_facts() -> None:
    made = by_node(replace(alignment(), values=(), facts=({}, {"target": None})))
    assert made["first"] == "" and made["nodes"] == {} and not made["emulated"]
    assert sides(replace(alignment(), facts=({}, {"target": None}))) == [("", ""), ("", "")]

from __future__ import annotations

import stat
from pathlib import Path

import networkx
import pytest

from glmc.observe.dump.blocks import block_of_layer
from glmc.observe.dump.picture import dot_picture, layer_graph, svg_of
from glmc.observe.dump.values import Values
from tests.observe.dump.steps import steps


def test_a_layer_is_one_connected_graph_without_cycles() -> None:
    program = steps("glm4_moe")["decode"]
    values = Values(program)
    block = block_of_layer(program, values, 2)
    assert block is not None
    graph = layer_graph(block, values)
    assert networkx.is_directed_acyclic_graph(graph)
    assert networkx.is_weakly_connected(graph)
    kinds = dict(graph.nodes(data="kind"))
    assert kinds["mlp_gate_gather"] == "glmc" and kinds["mlp_gate_weight"] == "weight"
    text = dot_picture(block, values)
    assert text.startswith('digraph "layer_2" {') and text == dot_picture(block, values)
    assert text.count(" -> ") == graph.number_of_edges()
    assert '"mlp_gate_weight" -> "mlp_gate_gather"' in text


def test_without_graphviz_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = svg_of("digraph {}")
    assert isinstance(found, str) and "not installed" in found


@pytest.mark.parametrize(
    ("body", "expected"), [("cat", b"digraph {}"), ("echo no >&2; exit 3", "'dot' failed: no")]
)
def test_graphviz_is_called_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, expected: object
) -> None:
    tool = tmp_path / "dot"
    tool.write_text(f"#!/bin/sh\n{body}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert svg_of("digraph {}") == expected

"""Which ops may exist after each stage: presets pass, and each stage can fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.fx import Graph

from glmc.errors import InternalError
from glmc.ir.match import is_op
from glmc.ir.ops.registry import OPS
from glmc.ir.program import Program, graph_module
from glmc.ir.rewrite import Rewriter
from glmc.passes import rms_norm
from glmc.pipeline.legal import KNOWN, require_legal
from glmc.pipeline.runner import fuse
from glmc.pipeline.stages import MERGE, PAGE, PASSES, PHASE, SHARD, STAGES, Stage
from tests.sabotage import unchecked
from tests.support.models import captured, tiny_config

# An op that no stage up to this one may leave.
FOREIGN = {
    "normal": "rms_norm",
    "fuse": "prefill_attention",
    "page": "decode_attention",
    "shard": "decode_attention",
    "phase": "rope_decode_attention",
    "merge": "attention",
}


def with_call(program: Program, name: str) -> Program:
    """A program that calls an op of ours; what it is given does not matter here."""
    graph = Graph()
    call = graph.call_function(getattr(torch.ops.glmc, name).default, (graph.placeholder("x"),))
    call.meta["id"] = "model.norm#made"
    graph.output((call,))
    return replace(program, graph_module=graph_module(graph))


@pytest.fixture(scope="module")
def program() -> Program:
    return captured(tiny_config("glm4_moe"))


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: str(stage.name))
def test_a_foreign_op_is_named_with_its_stage(stage: Stage, program: Program) -> None:
    name = FOREIGN[stage.name]
    beside = {MERGE.name: (PHASE,), SHARD.name: (PAGE,)}  # whose ops are still there
    ran = (*beside.get(stage.name, ()), stage)
    with pytest.raises(InternalError) as raised:
        require_legal(with_call(program, name), ran)
    assert raised.value.place == f"stage {stage.name}, node model.norm#made"
    assert raised.value.found == f"glmc.{name}"
    assert "glmc.linear" in str(raised.value.expected)


def test_a_pass_that_makes_an_op_of_a_later_stage_ends_the_compile() -> None:
    program = captured(tiny_config("glm4_moe"))

    def rewrite(rewriter: Rewriter, found: Any) -> None:
        rms_norm.rewrite(rewriter, found)
        for node in rewriter.graph.nodes:
            if is_op(node, "glmc.rms_norm"):
                node.target = torch.ops.glmc.select_rows.default

    broken = unchecked(replace(rms_norm.PASS, rewrite=rewrite))
    passes = tuple(broken if one.name == "rms_norm" else one for one in PASSES)
    with pytest.raises(InternalError, match="stage 'fuse' left an op") as raised:
        fuse(program, passes=passes)
    assert raised.value.found == "glmc.select_rows"


def test_an_order_that_mixes_stages_is_legal() -> None:
    """A user may list a fusion in front of the cleaning."""
    names = [one.name for one in PASSES]
    order = [names[0], *names[2:], names[1]]
    bodies = {one.name: one for one in PASSES}
    records = fuse(captured(tiny_config("glm4_moe")), passes=tuple(bodies[one] for one in order))
    assert [one.name for one in records] == order


def test_the_table_has_every_op() -> None:
    own = {name for name, op in OPS.items() if op.reference.__module__.startswith("glmc.")}
    assert own == KNOWN

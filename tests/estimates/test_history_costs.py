"""Costs from a history are those from the program that was lowered, for each call and target."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc.estimates.costs import Step, node_cost
from glmc.estimates.few_layers import captured, planned
from glmc.estimates.history_costs import HistoryCosts, RecordedStep
from glmc.job import read_job
from glmc.observe.history.ids import Place, calls_of, whole_id
from glmc.observe.history.record import CallHistory, History
from glmc.observe.history.stored import read_history
from tests.support.thinned import thinned

pytestmark = pytest.mark.usefixtures("shared_captures")
MOE = Path(__file__).parents[2] / "models" / "tiny-moe"
STEPS = (
    (RecordedStep(3, 3, 3 * 50, 3 * 50), Step("decode", 3, 1, 50, 3)),
    (RecordedStep(40, 2, 60, 2 * (20 * 30 - 190)), Step("prefill", 2, 20, 30, 40)),
)


def compiled(target: str, folder: Path) -> tuple[History, CompileOptions]:
    options = CompileOptions(target=target, weights="none", dtype="bfloat16")
    compile_model(MOE, folder / target, options)
    return read_history(folder / target), options


def calls(history: History, phase: str, layers: int) -> dict[str, CallHistory]:
    """Those of the first layers and outside of them, by the whole ids of their nodes."""
    (plan,) = (each for each in history.plans if each.phase == phase)
    return {
        whole_id(history, Place(layer, call.node)): call
        for layer in (None, *range(layers))
        for _, call in calls_of(plan, layer)
    }


@pytest.mark.parametrize("target", thinned(["cpu", "cuda", "xpu"], long=["cuda", "xpu"]))
def test_every_call_has_the_cost_of_its_node(target: str, tmp_path: Path) -> None:
    """Also of those that the target's merges made: on cuda attention with rope, and experts."""
    history, options = compiled(target, tmp_path)
    few = planned(captured(read_job(MOE, options)))
    block_size = few.manifest.cache.block_size
    costs = HistoryCosts(block_size)
    programs = {key.phase: program for key, program in few.programs.items()}
    for recorded, step in STEPS:
        program = programs[step.phase]
        nodes = {node.meta.get("id"): node for node in program.graph.nodes}
        mine = calls(history, step.phase, 3)
        assert len(mine) > 20
        for each, call in mine.items():
            expected = node_cost(nodes[each], program, step, block_size)
            found = costs.cost(call, recorded)
            assert (found.kind, found.bytes, found.flops) == (
                expected.kind,
                pytest.approx(expected.bytes),
                pytest.approx(expected.flops),
            ), each


def test_the_context_counts(tmp_path: Path) -> None:
    history, _ = compiled("cpu", tmp_path)
    costs = HistoryCosts(16)
    call = calls(history, "decode", 3)["model.layers.2.self_attn#scaled_dot_product_attention"]
    near, far = (RecordedStep(2, 2, context, context) for context in (100, 1100))
    more = costs.cost(call, far).bytes - costs.cost(call, near).bytes
    # Keys and values of two heads of 32, bfloat16, and the ids of blocks.
    assert more == pytest.approx(1000 * 2 * 2 * 32 * 2 * 128 / 16 + 1000 * 4 / 16)

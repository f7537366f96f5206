"""From every kernel call back to the model: ids, module and source line, on both targets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc.errors import UsageError
from glmc.observe.history.ids import Place, calls_of, layers_of, nodes_of, place_of, whole_id
from glmc.observe.history.lineage import lineage
from glmc.observe.history.record import CallHistory, History
from glmc.observe.history.stored import read_history
from glmc.observe.history.why_not import why_not
from tests.support.checkpoints import tiny_file

pytestmark = pytest.mark.usefixtures("shared_captures")
ARCHITECTURES = ("glm-4-9b-0414", "glm-4.5")


# Each architecture and each target once, of which the normal suite has the first.
QUICK, LONG = list(zip(ARCHITECTURES, ("cpu", "xpu"), strict=True))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            pair,
            marks={QUICK: (), LONG: pytest.mark.long}.get(pair, pytest.mark.slow),
        )
        for pair in product(ARCHITECTURES, ("cpu", "xpu"))
    ],
)
def history(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> History:
    name, target = request.param
    root: Path = tmp_path_factory.mktemp("history")
    checkpoint = root / "model"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text(json.dumps(tiny_file(name, head_dim=64)))
    options = CompileOptions(target=target, weights="none", max_context=64)
    if target == "xpu":
        options = CompileOptions(target=target, weights="none", dtype="bfloat16")
    compile_model(checkpoint, root / "out", options)
    return read_history(root / "out")


def all_calls(history: History) -> Iterator[tuple[int | None, CallHistory]]:
    for plan in history.plans:
        for layer in (None, *range(layers_of(history))):
            for _, call in calls_of(plan, layer):
                yield layer, call


def test_every_kernel_call_comes_from_the_model(history: History) -> None:
    captured = {
        whole_id(history, Place(layer, node.id)): node
        for layer in (None, *range(layers_of(history)))
        for node in nodes_of(history.steps[0], layer)
    }
    counted = 0
    for layer, call in all_calls(history):
        ids = [whole_id(history, Place(layer, one)) for one in (call.node, *call.origins)]
        found = [captured[one] for one in ids if one in captured]
        assert found, (call.function, ids)
        assert any(node.source.startswith("modeling_") for node in found), (call.function, ids)
        assert call.source.startswith("modeling_")
        assert call.module
        counted += 1
    assert counted == sum(
        len(block.calls) * len(block.indices) for plan in history.plans for block in plan.blocks
    )


def test_every_computed_value_of_the_capture_ends_in_a_call_or_is_said_gone(
    history: History,
) -> None:
    """Nothing fades away: a captured node has an heir in each later step until it is dropped."""
    last = layers_of(history) - 1
    unheard = []
    for node in nodes_of(history.steps[0], last):
        if node.op in ("weight", "input", "output"):
            continue
        life = lineage(history, whole_id(history, Place(last, node.id)))
        assert life.events[0].what == "captured"
        if life.calls or life.events[-1].what == "dropped":
            continue
        (_, text), *_ = life.events[-1].nodes
        if not text.startswith("aten.reshape("):  # a view of memory needs no call
            unheard.append(node.id)
    assert unheard == []


def test_the_gate_and_all_that_it_was_made_of_lead_to_its_call(history: History) -> None:
    gates = [call for _, call in all_calls(history) if call.op == "moe_gate"]
    if not gates:
        pytest.skip("a dense model has no gate")
    layer = layers_of(history) - 1
    for own in ("sigmoid", "linear", "add", "div", "gather"):
        life = lineage(history, f"{history.prefix}.{layer}.mlp.gate#{own}")
        assert {call.phase for call in life.calls} == {"prefill", "decode"}
        assert any(call.node.endswith("mlp.gate#gather") for call in life.calls)
    became = lineage(history, f"{history.prefix}.{layer}.mlp.gate#sigmoid").events[1]
    assert (became.step, became.what) == ("moe_gate", "became")
    assert became.nodes[0][0] == f"{history.prefix}.{layer}.mlp.gate#gather"


def test_unknown_ids_get_the_nearest_ones(history: History) -> None:
    with pytest.raises(UsageError, match="no step has a node") as caught:
        lineage(history, f"{history.prefix}.1.self_attn.o_proj#liner")
    assert f"{history.prefix}.1.self_attn.o_proj#linear" in str(caught.value)
    with pytest.raises(UsageError, match="there is no layer 99"):
        lineage(history, f"{history.prefix}.99.self_attn.o_proj#linear")


def test_a_module_stands_for_the_one_op_that_is_left_of_it(history: History) -> None:
    last = layers_of(history) - 1
    whole = lineage(history, f"{history.prefix}.{last}.self_attn.o_proj#linear")
    short = history.prefix.rpartition(".")[2]
    assert lineage(history, f"{history.prefix}.{last}.self_attn.o_proj") == whole
    assert lineage(history, f"{short}.{last}.self_attn.o_proj") == whole
    with pytest.raises(UsageError, match="no step has a node") as caught:
        lineage(history, f"{short}.{last}.self_attn")
    assert f"{history.prefix}.{last}.self_attn#" in (caught.value.remedy or "")


def test_whole_and_relative_ids_are_each_other_s_inverse(history: History) -> None:
    for whole in ("lm_head#linear", "model.layers.3#add", "model.layers.12.mlp.gate#gather"):
        assert whole_id(history, place_of(history, whole)) == whole
    assert whole_id(history, Place(3, "previous:mlp#add")) == "model.layers.2.mlp#add"


def test_why_not_of_what_matched_and_of_what_has_no_anchor(history: History) -> None:
    norms = why_not(history, "rms_norm", 1)
    assert norms.matches and not norms.misses
    assert norms.found == norms.expected
    none = why_not(history, "silu_mul", 0)
    assert (none.matches, none.seen, none.anchors) == ((), 0, ("aten.silu",))
    assert none.taken == (("gate_up_merge", 1),)  # who left nothing for it
    with pytest.raises(UsageError, match="no pass 'rms_nrm' ran"):
        why_not(history, "rms_nrm")
    with pytest.raises(UsageError, match="there is no layer 7"):
        why_not(history, "rms_norm", 7)

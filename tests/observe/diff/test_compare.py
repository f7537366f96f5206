"""What differs between two histories: steps, matches, nodes, calls and buffers, by name and id."""

from __future__ import annotations

import json
from dataclasses import replace

from glmc.artifact.inputs import InputFile, Inputs
from glmc.observe.diff.compare import compare
from glmc.observe.diff.record import Change, Comparison, MatchChange, NodeChange
from glmc.observe.diff.sides import Side, side_of
from glmc.observe.diff.words import detail_lines, summary_lines
from glmc.observe.history.record import History
from glmc_runtime.format.manifest import FileEntry
from tests.observe.sample import ADDED, AFTER, BEFORE, GATE, PICKED, call, history, step

INPUTS = Inputs("toy", {}, {"dtype": None}, "", {}, {"torch": "2.13"}, "0" * 64)


def side(made: History, inputs: Inputs | None = INPUTS) -> Side:
    return side_of("here", "artifact", made, inputs)


def without_the_gate() -> History:
    """As if the pass had been switched off: its step is not there, and no later one has its op."""
    made = history()
    steps = [*made.steps[:2]]
    for number, name in enumerate(("prefill", "decode"), 2):
        steps.append(step(number, name, BEFORE, stage="phase", phase=name, label=f"00{number}"))
    plans = []
    for plan in made.plans:
        outside, first, second = plan.blocks
        calls = tuple(
            call("aten.topk", "x=mlp.gate#sigmoid, out=mlp.gate#topk", PICKED, "out")
            if each.node == GATE.id
            else each
            for each in first.calls
        )
        plans.append(
            replace(
                plan,
                blocks=(outside, replace(first, calls=calls), replace(second, calls=calls)),
                arena_bytes=256,
            )
        )
    return replace(made, steps=tuple(steps), plans=tuple(plans))


def test_the_same_twice() -> None:
    timed = replace(history().steps[2], seconds=77.0, verdict="bitwise: equal on 6 inputs")
    other = replace(history(), steps=(*history().steps[:2], timed, *history().steps[3:]))
    found = compare(side(history()), side(other))
    assert not found.differs, "neither times nor a verdict that one side lacks"
    assert [*summary_lines(found)][2:] == ["no difference"] and not [*detail_lines(found)]
    proved = replace(timed, verdict="bitwise: equal on 7 inputs")
    once = replace(other, steps=(*other.steps[:2], proved, *other.steps[3:]))
    assert compare(side(other), side(once)).steps[2].changes == (
        Change("moe_gate", "verdict", timed.verdict, proved.verdict),
    )


def gone() -> Comparison:
    return compare(side(history()), side(without_the_gate()))


def test_a_pass_that_one_side_ran_shifts_nothing() -> None:
    found = gone()
    labels = {each.name: (each.a, each.b) for each in found.steps}
    assert labels["moe_gate"] == ("002_fuse_moe_gate", None)
    assert labels["prefill"] == ("003_fuse_prefill", "002")
    assert labels["clean"][0] == labels["clean"][1]
    (gate,) = (each for each in found.steps if each.name == "moe_gate")
    assert gate.matches == (MatchChange("mlp.gate#topk", (0, 1, 2), "a"),)
    others = [each for each in found.steps if each.name in ("capture", "clean")]
    assert not any(each.differs for each in others)


def test_what_a_pass_did_is_said_at_that_pass_alone() -> None:
    found = {each.name: each for each in gone().steps}
    ids = [change.id for change in found["moe_gate"].nodes]
    assert sorted(set(ids)) == ["mlp.gate#linear", "mlp.gate#sigmoid", "mlp.gate#topk"]
    linear = [each for each in found["moe_gate"].nodes if each.id == "mlp.gate#linear"]
    assert [(each.a, each.layers) for each in linear] == [(None, (0, 1, 2))]
    for name in ("prefill", "decode"):
        assert found[name].nodes == () and found[name].carried == 9


def test_calls_are_paired_by_node() -> None:
    (prefill, decode) = gone().plans
    assert prefill.phase == "prefill" and replace(prefill, phase="decode") == replace(
        decode, changes=tuple(replace(each, group="prefill") for each in decode.changes)
    )
    assert decode.kernels == (
        Change("kernel", "aten.topk", "0", "3"),
        Change("kernel", "kunlun_ops.gate", "3", "0"),
    )
    (changed,) = decode.calls
    assert changed.id == "mlp.gate#topk" and changed.layers == (0, 1, 2)
    assert str(changed.a).startswith("kunlun_ops.gate(") and "aten.topk(" in str(changed.b)
    assert decode.changes == (Change("decode", "arena bytes", "128", "256"),)


def test_a_shape_is_a_row_with_its_layers() -> None:
    made = history()
    wider = tuple(
        replace(plan, buffers=tuple(replace(b, shape="[tokens, 9]") for b in plan.buffers))
        for plan in made.plans
    )
    found = compare(side(made), side(replace(made, plans=wider)))
    assert found.plans[1].buffers == (
        NodeChange(
            "model.embed_tokens#embedding", (None,), "[tokens, 8] float32", "[tokens, 9] float32"
        ),
        NodeChange("mlp.gate#topk", (0, 1, 2), "[tokens, 8] float32", "[tokens, 9] float32"),
    )
    assert "decode:   2 other buffers" in [*summary_lines(found)]


def test_nodes_that_are_called_the_same_are_paired_in_order() -> None:
    twice = (*AFTER, replace(ADDED, value="[tokens, 1] float32"))
    one, other = (
        replace(history(), steps=(step(0, "capture", layer),), plans=()) for layer in (AFTER, twice)
    )
    (found,) = compare(side(one), side(other)).steps
    assert [(each.id, each.a) for each in found.nodes] == [("mlp#add", None)] * len(found.nodes)
    assert {layer for each in found.nodes for layer in each.layers} == {0, 1, 2}


def test_what_they_were_made_from() -> None:
    files = {"config.json": InputFile(2, "ab" * 32, True)}
    other = replace(
        INPUTS,
        files=files,
        options={"dtype": "float32"},
        versions={"torch": "2.14"},
        sources="1" * 64,
        pipeline="cd" * 32,
    )
    renamed = replace(history(), model="other", target="cpu")
    found = compare(side(history()), side(renamed, other))
    assert [(each.group, each.name) for each in found.changes] == [
        ("model", "name"),
        ("model", "target"),
        ("version", "torch"),
        ("version", "sources of glmc"),
        ("file", "config.json"),
        ("option", "dtype"),
        ("option", "content of the pipeline file"),
    ]
    (options,) = (line for line in summary_lines(found) if line.startswith("options:"))
    assert "files:    config.json" in [*summary_lines(found)], "the names; the detail has the rest"
    assert "  config.json none | 2 bytes, sha256 abababababab" in [*detail_lines(found)]
    assert options.split(None, 1)[1].split("; ") == [
        'dtype null | "float32"',
        "content of the pipeline file none | cdcdcdcdcdcd",
    ]
    unknown = compare(side(history()), side(history(), None))
    assert not unknown.differs and "no record of its options" in unknown.remarks[0]
    assert [*summary_lines(unknown)][-1] == "no difference in what was compared"


def packed(weights: str, made: Inputs = INPUTS) -> Side:
    """An artifact with a file of weights and one of text."""
    files = {"weights/1": FileEntry(weights * 64, 9), "tokenizer/a": FileEntry("c" * 64, 9)}
    return replace(side(history(), made), packed=files)


def test_weights_are_compared_by_the_hashes_of_the_manifest() -> None:
    large = replace(INPUTS, files={"model.safetensors": InputFile(1 << 30, "d" * 64, False)})
    assert compare(packed("a"), packed("b")).changes == (
        Change("file", "weights/1", f"9 bytes, sha256 {'a' * 12}", f"9 bytes, sha256 {'b' * 12}"),
    )
    same = compare(packed("a", large), packed("a", large))
    assert not same.differs and not same.remarks, "the packed weights say it"
    planned = compare(packed("a", large), side(history(), large))
    assert not planned.differs and [*summary_lines(planned)][2:] == [
        "note: the values of model.safetensors were not compared, only header and size",
        "no difference in what was compared",
    ]


def test_layers_that_one_model_lacks_are_a_number() -> None:
    short = tuple(
        replace(each, blocks=(*each.blocks[:2], replace(each.blocks[2], like=())))
        for each in history().steps
    )
    found = compare(side(history()), side(replace(history(), steps=short, plans=())))
    assert [each.name for each in found.changes] == ["layers"]
    assert not any(each.nodes for each in found.steps)
    assert {each.name for each in found.plans[0].changes} >= {"calls", "arena"}
    assert found.plans[0].calls == ()


def test_words_are_ten_lines_and_then_the_detail() -> None:
    lines = [*summary_lines(gone())]
    assert lines[2:] == [
        "passes:   only in A: moe_gate (3 matches)",
        "graph:    differs from moe_gate on, layers 0..2",
        "prefill:  aten.topk 0 | 3, kunlun_ops.gate 3 | 0; arena 128 B | 256 B",
        "decode:   aten.topk 0 | 3, kunlun_ops.gate 3 | 0; arena 128 B | 256 B",
    ]
    detail = [*detail_lines(gone())]
    assert "002_fuse_moe_gate, only in A" in detail and "plan of decode" in detail
    assert "  - match mlp.gate#topk  layers 0..2" in detail
    assert "  9 differences of the step before remain" in detail
    data = json.loads(json.dumps(gone().to_json()))
    assert data["differs"] is True and data["steps"][2]["name"] == "moe_gate"


def test_another_order_is_said() -> None:
    made = history()
    swapped = (made.steps[0], made.steps[2], made.steps[1], *made.steps[3:])
    found = compare(side(made), side(replace(made, steps=swapped)))
    assert any(line.startswith("passes:   another order") for line in summary_lines(found))


def test_another_order_of_nodes_and_calls_is_a_difference_of_the_block() -> None:
    made = history()
    plans = tuple(
        replace(plan, blocks=tuple(replace(each, calls=each.calls[::-1]) for each in plan.blocks))
        for plan in made.plans
    )
    found = compare(side(made), side(replace(made, plans=plans)))
    assert found.differs and not any(plan.kernels or plan.buffers for plan in found.plans)
    assert all(change.order for plan in found.plans for change in plan.calls)
    assert "decode:   calls in another order, layers 0..2" in [*summary_lines(found)]
    assert any(line.endswith("layers 0..2  another order") for line in detail_lines(found))
    first = (BEFORE[0], *BEFORE[2:], BEFORE[1])
    steps = (step(0, "capture", BEFORE), step(0, "capture", first))
    left, right = (side(replace(made, steps=(each,), plans=())) for each in steps)
    (changed,) = compare(left, right).steps[0].nodes
    assert changed.order and changed.id == BEFORE[1].id and changed.layers == (0, 1, 2)
    assert changed.a == f"{BEFORE[1].id} before {BEFORE[2].id}"

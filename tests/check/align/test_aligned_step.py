"""What routers chose, and what follows from a tie: which values of a step can be judged."""

from __future__ import annotations

import pytest
from torch import Tensor

from glmc.check.align.compare import align
from glmc.check.align.result import Verdict
from tests.check.align.memory_record import MemoryRecord
from tests.check.align.small_model import EXPERTS, LAYERS, Change, Model, aligned, value, wrong


def test_weights_and_ids_in_another_order_are_no_difference() -> None:
    found = aligned()
    for layer in range(LAYERS):
        ids = value(found, f"layers.{layer}.mlp.gate.Router.0.forward_output.2")
        assert ids.router is not None and ids.router.agreeing == ids.router.tokens == 6
        weights = value(found, f"layers.{layer}.mlp.gate.Router.0.forward_output.1")
        assert weights.total.largest_absolute == 0


def other_expert(token: int, place: int) -> Change:
    """In the reference's scores the expert at ``place`` in exchange for the last chosen one."""

    def change(ids: Tensor) -> Tensor:
        ids = ids.clone()
        ids[token, 1] = next(each for each in range(EXPERTS) if each not in ids[token].tolist())
        return ids

    return change


def stored(record: MemoryRecord, key: str) -> Tensor:
    load = next(each.load for each in record.tensors() if str(each.key) == key)
    assert load is not None
    return load()


def tie(layer: int, token: int) -> tuple[MemoryRecord, MemoryRecord]:
    """Records in which a token's last expert and the next one have all but one score."""
    expected, actual = Model().made(), Model(1).made()
    records = {
        f"{n}.{each.step}.{each.key}": each
        for n, r in enumerate((expected, actual))
        for each in r.tensors()
    }
    gate = f"model.layers.{layer}.mlp.gate"
    scores = records[f"0.0.{gate}.router_scores.0.forward_output.0"].load
    ids = records[f"1.0.{gate}.Router.0.forward_output.2"].load
    assert scores is not None and ids is not None
    row = scores()[token]
    order = row.argsort(descending=True)
    row[order[2]] = row[order[1]] - 1e-4
    chosen = ids()[token]
    chosen[chosen == order[1]] = order[2]
    return expected, actual


def spoil(record: MemoryRecord, text: str, tokens: slice, step: int = 0) -> None:
    for each in record.tensors():
        if text in str(each.key) and each.step == step and each.load is not None:
            each.load()[tokens] *= -1


def test_a_tie_is_no_fault_and_what_follows_from_it_is_not_judged() -> None:
    expected, actual = tie(1, 2)
    spoil(actual, "layers.1.Layer", slice(2, 3))
    spoil(actual, "layers.2.Layer", slice(2, 4))
    spoil(actual, "lm_head", slice(2, 4))
    spoil(actual, "layers.2.self_attn", slice(0, 1), step=1)
    found = align(expected, actual)
    router = value(found, "layers.1.mlp.gate.Router.0.forward_output.2")
    assert router.verdict is Verdict.OK and "tied" in router.reason
    assert router.router is not None
    assert router.router.agreeing == 5 and router.router.margins is not None
    assert router.router.margins[0] == pytest.approx(1e-4, rel=0.01)
    assert wrong(found) == []
    assert "1 of 6 rows follow another choice" in value(found, "layers.1.Layer").reason
    assert "2 of 6 rows follow another choice" in value(found, "layers.2.Layer").reason
    assert value(found, "layers.2.mlp.experts.act_fn").verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("text", "tokens", "step"),
    [
        ("layers.1.Layer", slice(3, 4), 0),  # the next token, before the next attention
        ("layers.2.Layer", slice(1, 2), 0),  # a token before
        ("layers.2.Layer", slice(4, 5), 0),  # another sequence
        ("layers.1.self_attn", slice(2, 3), 0),  # before the router
        ("layers.2.self_attn", slice(1, 2), 1),  # the other sequence's next token
        ("layers.1.self_attn", slice(0, 1), 1),  # the next token, up to the router's layer
    ],
)
def test_a_fault_beside_a_tie_is_a_fault(text: str, tokens: slice, step: int) -> None:
    expected, actual = tie(1, 2)
    spoil(actual, text, tokens, step)
    found = align(expected, actual)
    assert found.first is not None
    assert text in found.first.name and found.first.step == step


def test_a_router_that_chooses_wrong_experts_is_a_fault() -> None:
    found = aligned(**{"layers.1.mlp.gate.ids": other_expert(2, 5)})
    assert found.first is not None and found.first.router is not None
    assert found.first.name == "model.layers.1.mlp.gate.Router.0.forward_output.2"
    assert found.first.router.tied is False


def test_another_choice_without_scores_is_unknown() -> None:
    expected, actual = tie(1, 2)
    expected.recorded = [each for each in expected.recorded if "scores" not in str(each.key)]
    row = value(align(expected, actual), "layers.1.mlp.gate.Router.0.forward_output.2")
    assert row.verdict is Verdict.UNKNOWN and "scores are not known" in row.reason


def test_layers_and_modules_are_chosen_and_ties_of_others_count_all_the_same() -> None:
    expected, actual = tie(1, 2)
    spoil(actual, "layers.2.Layer", slice(2, 4))
    found = align(expected, actual, wanted=lambda module, layer: layer == 2)
    assert {each.layer for each in found.values} == {2}
    assert wrong(found) == []
    only = align(expected, actual, wanted=lambda module, layer: module == "lm_head")
    assert [each.name for each in only.values] == ["lm_head.Linear.0.forward_output.0"] * 2

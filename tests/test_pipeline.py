"""The pipeline's bookkeeping: lost fusions are named by pass, layer and reason."""

from __future__ import annotations

import pytest

from glmc.errors import MatchCountError
from glmc.ir.match import NearMiss
from glmc.passes.base import Match
from glmc.pipeline import PASSES, PassRecord, check_matches, require_matches


def record(name: str, layers: list[int], misses: tuple[NearMiss, ...] = ()) -> PassRecord:
    matches = tuple(Match(f"model.layers.{n}#{name}", f"model.layers.{n}", n) for n in layers)
    return PassRecord(name, "bitwise", 0.0, 10, 9, matches, misses)


def miss(layer: int, condition: str) -> NearMiss:
    module = f"model.layers.{layer}.mlp.gate"
    return NearMiss(
        "moe_gate", f"{module}#gather", f"{module}#div", module, layer, condition, "f:1"
    )


def test_counts_that_agree_are_no_problem() -> None:
    records = (record("rope", [0, 0, 1, 1]), record("moe_gate", [1]))
    assert check_matches(records, {"rope": 4, "moe_gate": 1}) == []
    require_matches(records, {"rope": 4, "moe_gate": 1})


def test_a_lost_match_names_pass_layer_node_and_reason() -> None:
    lost = record("moe_gate", [1, 3], (miss(2, "the eps must be a number"),))
    (line,) = check_matches((record("rope", [0, 1, 2, 3]), lost), {"moe_gate": 3, "rope": 4})
    assert line.startswith("moe_gate: expected 3, found 2, fewest in layers 0, 2 (")
    assert "layer 2: model.layers.2.mlp.gate#div: the eps must be a number f:1" in line


def test_a_layer_is_named_even_without_a_near_miss() -> None:
    (line,) = check_matches((record("rope", [0, 0, 1, 2, 2]),), {"rope": 6})
    assert line == "rope: expected 6, found 5, fewest in layer 1 (no near miss was seen)"


def test_too_many_matches_are_a_problem_too() -> None:
    with pytest.raises(MatchCountError, match="expected 1, found 2"):
        require_matches((record("rope", [0, 1]),), {"rope": 1})


def test_many_reasons_are_counted() -> None:
    lost = record("moe_gate", [], tuple(miss(layer, "no") for layer in range(5)))
    (line,) = check_matches((record("rope", [0, 1, 2, 3, 4]), lost), {"moe_gate": 5})
    assert "and 2 more" in line


def test_a_pass_is_on_the_page_once() -> None:
    names = [one.name for one in PASSES]
    assert len(names) == len(set(names))

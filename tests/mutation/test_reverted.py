"""What holds a twist back, taken out: then the mutants must be found silent, or nothing is proved.

Three things stand between a twist and a wrong fusion: the matcher's own conditions, the account of
arguments that were read, and the evaluation of what is replaced. Any one of them is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.fx import Node

from glmc.ir import match as m
from glmc.ir import rewrite
from glmc.ir.ops.linear import LINEAR
from glmc.ir.rewrite import Rewriter
from glmc.passes import attention, canonical
from glmc.passes import base as driver
from tests.mutation.judge import FAULTS, Outcome, by_name, judge

torch.set_num_threads(1)
# mutant -> the conditions that its mend has added to the matcher, if any
TWISTS: dict[str, tuple[str, ...]] = {
    "rms_norm.RmsNorm.traced:keyword:add:alpha=2": (),
    "moe_gate.NoGroups.traced:keyword:sum_1:dtype=torch.bfloat16": (),
    "moe_gate.NoGroups.traced:overload:div:rounding_mode=floor": (),
    "moe_gate.NoGroups.traced:groups:topk:as_they_are": (
        "the scores must be gathered among all experts of a token",
        "top-k must be over all experts of a token",
    ),
    "canonical.matmul.traced:order:t:0,1": ("the order of a permute",),
    "attention.mask_given.traced:cast:add:1_to_torch.bool": (
        "the mask that is added must be of floating-point numbers",
    ),
}
Patch = pytest.MonkeyPatch


def nothing(*arguments: object) -> None:
    """In the place of a check."""


def forget(patch: Patch, conditions: tuple[str, ...]) -> None:
    """Let the matchers do without these conditions."""
    require = m.require

    def lenient(holds: object, node: Node, condition: str) -> None:
        require(holds or condition in conditions, node, condition)

    patch.setattr(m, "require", lenient)
    if "the order of a permute" in conditions:
        patch.setitem(canonical._HANDLERS, "aten.matmul", _unordered)


def _unordered(rewriter: Rewriter, node: Node) -> Node | None:
    """A product with any permute of a matrix is a linear."""
    turned = m.operand(node, 1)
    if not m.is_op(turned, "aten.permute"):
        return None
    operands = (m.operand(node, 0), m.operand(turned, 0), None)
    value = node.meta["val"]
    return rewriter.call(LINEAR.overload, operands, replaces=(node,), before=node, value=value)


def without_accounting(patch: Patch) -> None:
    patch.setattr(driver, "_require_accounted", nothing)


def without_evaluation(patch: Patch) -> None:
    """Nor are shape and dtype of what is replaced asked for."""
    patch.setattr(rewrite, "require", nothing)
    patch.setattr(driver, "_require_same", nothing)


@pytest.mark.parametrize("name", TWISTS)
def test_held_back(name: str) -> None:
    verdict = judge(*by_name(name))
    assert verdict.changes
    assert verdict.outcome in (Outcome.REFUSED, Outcome.GONE), verdict.text


@pytest.mark.parametrize("name", TWISTS)
def test_silent_when_nothing_holds_it_back(name: str, monkeypatch: Patch) -> None:
    mutant = by_name(name)
    forget(monkeypatch, TWISTS[name])
    without_accounting(monkeypatch)
    without_evaluation(monkeypatch)
    assert judge(*mutant).outcome is Outcome.SILENT


@pytest.mark.parametrize("evaluated", [True, False])
def test_every_softmax_read_as_a_safe_one(evaluated: bool, monkeypatch: Patch) -> None:
    """No condition, but what the match says of a query that sees nothing."""
    mutant = by_name("attention.mask_given.traced:swapped:add:0,1")
    assert judge(*mutant).outcome is Outcome.FUSED
    monkeypatch.setattr(attention, "_UNSAFE", ())
    if not evaluated:
        without_evaluation(monkeypatch)
    assert judge(*mutant).outcome is (Outcome.REFUSED if evaluated else Outcome.SILENT)


def test_a_safe_softmax_in_the_place_of_a_plain_one(monkeypatch: Patch) -> None:
    mutant = by_name("attention.mask_given.traced:overload:softmax:safe")
    verdict = judge(*mutant)
    assert verdict.changes and verdict.outcome is Outcome.FUSED
    monkeypatch.setattr(attention, "_UNSAFE", ("aten._safe_softmax",))
    without_evaluation(monkeypatch)
    assert judge(*mutant).outcome is Outcome.SILENT


@pytest.mark.parametrize("defence", [without_accounting, without_evaluation])
@pytest.mark.parametrize("name", [name for name, conditions in TWISTS.items() if not conditions])
def test_either_defence_is_enough(
    name: str, defence: Callable[[Patch], Any], monkeypatch: Patch
) -> None:
    mutant = by_name(name)
    defence(monkeypatch)
    assert judge(*mutant).outcome not in FAULTS


@pytest.mark.parametrize("name", [name for name, conditions in TWISTS.items() if conditions])
def test_evaluation_finds_what_a_matcher_overlooks(name: str, monkeypatch: Patch) -> None:
    mutant = by_name(name)
    forget(monkeypatch, TWISTS[name])
    without_accounting(monkeypatch)
    assert judge(*mutant).outcome not in FAULTS

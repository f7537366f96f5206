"""Layers in order of execution, each with its worst value."""

from __future__ import annotations

from dataclasses import replace

from glmc.check.align.result import Verdict
from glmc.check.align.summary import by_layer, worst_first
from tests.check.align.aligned_values import a_router, a_value


def test_each_step_has_its_layers_in_order() -> None:
    values = [a_value(None, "embed"), a_value(0, "a"), a_value(0, "b"), a_value(None, "lm_head")]
    again = [replace(each, step=1, phase="decode") for each in values]
    found = by_layer([*values, *again])
    assert [(each.step, each.layer, len(each.values)) for each in found] == [
        (step, layer, count)
        for step in (0, 1)
        for layer, count in (("before", 1), ("0", 2), ("after", 1))
    ]


def test_the_worst_is_by_verdict_and_then_by_share() -> None:
    ok, close = a_value(1, "a", 0.01), a_value(1, "b", 0.09)
    unknown = a_value(1, "c", verdict=Verdict.UNKNOWN, share=None)
    fail = a_value(1, "d", 0.2, verdict=Verdict.FAIL)
    own = a_value(1, "e", 0.1, verdict=Verdict.OWN)
    assert worst_first([ok, close, unknown, fail, own]) == [own, fail, unknown, close, ok]
    (layer,) = by_layer([ok, close, fail, unknown])
    assert layer.worst is fail
    assert layer.verdicts == {Verdict.OK: 2, Verdict.FAIL: 1, Verdict.UNKNOWN: 1}


def test_tokens_of_routers_are_added_up() -> None:
    (layer,) = by_layer([a_value(1, "a"), a_router(1, 1e-4, 1e-3)])
    assert (layer.routed, layer.agreeing) == (8, 7)

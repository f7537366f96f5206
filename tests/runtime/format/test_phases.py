"""The table of phases: how symbols relate, and which rows are refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from glmc_runtime.errors import PlanError
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.phases import (
    DECODE,
    PHASES,
    PREFILL,
    Order,
    Phase,
    PhaseKey,
    phase_of,
    register,
)

PATCHES = Phase(
    "patches",
    ("tokens", "sequences", "patches"),
    ("token_ids",),
    bucket="patches",
    smaller=(("sequences", "tokens"), ("tokens", "patches")),
)
ROWS = (PREFILL, DECODE, PATCHES)


def _steps(phase: Phase) -> Iterator[dict[str, int]]:
    """The smallest steps, and those in which some symbols are far larger than others."""
    for values in product((1, 2, 3, 1000, 2000), repeat=len(phase.symbols)):
        sizes = dict(zip(phase.symbols, values, strict=True))
        if phase.allows(sizes):
            yield sizes


@pytest.mark.parametrize("phase", ROWS, ids=lambda phase: phase.name)
def test_at_most_is_what_all_steps_say(phase: Phase) -> None:
    choose = random.Random(3)
    steps = list(_steps(phase))
    count = 0
    for _ in range(2000):
        left, right = (
            Extent.of(choose.randrange(4), **{name: choose.randrange(4) for name in phase.symbols})
            for _ in range(2)
        )
        answer = phase.order.at_most(phase.normal(left), phase.normal(right))
        expected = all(left.evaluate(step) <= right.evaluate(step) for step in steps)
        assert answer is expected, (left, right)
        count += answer
    assert 100 < count < 1900


def test_what_has_no_name_in_the_phase_is_unrelated() -> None:
    order, real = Order(("tokens",)), Extent.of(**{"real tokens": 1})
    assert order.at_most(real, real + Extent(constant=1))
    assert not order.at_most(real, Extent.of(tokens=1000))
    square = Extent.of(tokens=1).times(Extent.of(tokens=1))
    assert order.at_most(square, square) and not order.at_most(square, Extent.of(tokens=9))


def test_equal_symbols_have_one_name() -> None:
    both = Extent.of(3, tokens=2, sequences=1)
    assert DECODE.normal(both) == Extent.of(3, tokens=3) and PREFILL.normal(both) == both
    assert DECODE.normal(both, real=True) == Extent.of(3, **{"real tokens": 3})
    assert PREFILL.normal(Extent(constant=3), real=True) == Extent(constant=3)


def test_the_largest_step_keeps_the_relation() -> None:
    most = {"sequences": 8}
    assert PREFILL.largest(64, most) == {"tokens": 64, "sequences": 8}
    assert PREFILL.largest(4, most) == {"tokens": 4, "sequences": 4}
    assert DECODE.largest(8, most) == {"tokens": 8, "sequences": 8}
    assert PATCHES.largest(32, {**most, "tokens": 16}) == {
        "tokens": 16,
        "sequences": 8,
        "patches": 32,
    }
    chained = replace(PATCHES, smaller=PATCHES.smaller[::-1]), PATCHES
    for phase in chained:
        sizes = phase.largest(2, {"tokens": 16, "sequences": 8})
        assert sizes == {"tokens": 2, "sequences": 2, "patches": 2}
    assert not DECODE.allows({"tokens": 2, "sequences": 1})
    assert not PREFILL.allows({"tokens": 1, "sequences": 2})
    assert not PREFILL.allows({"tokens": 1})


def test_keys_of_plans() -> None:
    assert DECODE.key == PhaseKey("decode", 0) == ("decode", 0)
    assert (str(DECODE.key), str(PhaseKey("decode", 3))) == ("decode", "decode.3")
    assert PhaseKey("decode", 3).file == "plans/decode.3.json"
    with pytest.raises(PlanError, match="'mood' is no phase"):
        phase_of("mood")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "decode"},
        {"name": "../decode"},
        {"bucket": "rows"},
        {"smaller": (("sequences", "rows"),)},
        {"equal": (("rows", "tokens"),)},
        {"output": ("rows", "vocabulary")},
    ],
    ids=str,
)
def test_a_row_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    before = dict(PHASES)
    with pytest.raises(PlanError):
        register(replace(PATCHES, **change))
    assert before == PHASES

"""The repeating period of a sequence of tokens, and what is none."""

from __future__ import annotations

from glmc.observe.timeline.period import Period, find_period

LAYER = ["norm", "linear", "rope", "attention", "attention", "linear", "norm", "mlp"]


def test_a_period_between_a_beginning_and_an_end() -> None:
    found = find_period(["copy", *LAYER * 5, "linear", "argmax"])
    assert found is not None and found.length == 8 and found.repeats == 5
    assert found.start in (0, 1)


def test_the_shortest_of_those_that_cover_the_same() -> None:
    found = find_period(LAYER * 6)
    assert found == Period(8, 0, 6)


def test_layers_that_alternate_are_one_period() -> None:
    other = [*LAYER[:-1], "router", "experts"]
    found = find_period([*LAYER, *other] * 4)
    assert found is not None and found.length == len(LAYER) + len(other)


def test_too_few_repetitions_are_none() -> None:
    assert find_period(LAYER * 2) is None


def test_a_period_that_covers_less_than_half_is_none() -> None:
    rest = [f"kernel {number}" for number in range(30)]
    assert find_period([*LAYER * 3, *rest]) is None
    assert find_period([*LAYER * 4, *rest]) is not None


def test_one_kernel_over_and_over_is_none() -> None:
    assert find_period(["copy"] * 60) is None
    assert find_period([]) is None

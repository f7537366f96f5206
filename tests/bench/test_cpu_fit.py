"""Constants of a CPU are those that made the steps, and never less than what a plain read takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.estimate.cpu import Constants
from bench.estimate.cpu_fit import NAMES, Sample, constants

KNOWN = Constants(read=1.5, experts=2.5, multiply=1.25, step=3e-4, source="made up")
STEPS = [(1e-3, 0, 2e-3, 1, 0), (4e-3, 2e-3, 1e-3, 1, 0), (9e-3, 0, 9e-3, 1, 0)]
STEPS += [(2e-4, 1e-3, 3e-3, 1, 0), (1e-3, 5e-3, 3e-4, 1, 0), (2e-3, 0, 1e-3, 1, 0)]


def sample(factors: tuple[float, ...], made_by: Constants, known: float = 1e-4) -> Sample:
    values = [getattr(made_by, name) for name in NAMES]
    taken = known + sum(each * value for each, value in zip(factors, values, strict=True))
    return Sample(taken, known, factors)


def test_constants_are_those_that_made_the_steps() -> None:
    found = constants([sample(factors, KNOWN) for factors in STEPS], "made up")
    for name in NAMES:
        assert getattr(found, name) == pytest.approx(getattr(KNOWN, name), rel=1e-6, abs=1e-12)


def test_no_constant_is_less_than_its_least() -> None:
    quick = replace(KNOWN, read=0.5)  # faster than a plain read: its weights are in a cache
    samples = [sample(factors, quick) for factors in STEPS]
    found = constants(samples, "made up")
    assert found.read == 1.0
    assert min(found.experts - 1, found.multiply - 1, found.step, found.told) >= 0.0
    # Those that are free make up for it as far as they can.
    stiff = replace(quick, read=1.0)
    assert error(samples, found) < error(samples, stiff)


def error(samples: list[Sample], of: Constants) -> float:
    made = [sample(each.factors, of).seconds for each in samples]
    return sum((a / b.seconds - 1) ** 2 for a, b in zip(made, samples, strict=True))

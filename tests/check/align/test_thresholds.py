"""What rounding explains, by whole, row and element, and what torch_xray's rule is taken for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from glmc.check.align.metrics import measure
from glmc.check.align.result import Verdict
from glmc.check.align.thresholds import (
    ELEMENT,
    ROW,
    WHOLE,
    Evidence,
    Judgement,
    Rounding,
    Xray,
    thresholds_named,
    unit_of,
)
from glmc.errors import UsageError
from tests.check.align.memory_record import statistics

UNIT = unit_of(torch.bfloat16, 64)
SIZE = (2000, 64)


def evidence(expected: Tensor, actual: Tensor, depth: int = 1) -> Evidence:
    measured = measure(expected, actual)
    return Evidence(measured, (statistics(expected), statistics(actual)), unit=UNIT, depth=depth)


def judge(expected: Tensor, actual: Tensor, depth: int = 1) -> Judgement:
    return Rounding().judge(evidence(expected, actual, depth))


def test_the_unit_is_the_dtype_s_and_that_of_sums_in_float32() -> None:
    assert unit_of(torch.bfloat16, 1) == pytest.approx(2**-8, rel=1e-4)
    assert unit_of(torch.float32, 4096) == pytest.approx(65 * 2**-24)


@pytest.mark.parametrize(
    ("share", "words"),
    [(WHOLE, "root mean square"), (ROW, "worst row"), (ELEMENT, "worst element")],
)
def test_each_limit_is_where_it_is_said_to_be(share: float, words: str) -> None:
    expected = torch.ones(SIZE)
    for part, verdict in ((0.95, Verdict.OK), (1.05, Verdict.FAIL)):
        error = torch.zeros(SIZE)
        place = {WHOLE: ..., ROW: 7, ELEMENT: (7, 3)}[share]
        error[place] = share * UNIT * math.sqrt(9) * part
        found = judge(expected, expected + error, depth=9)
        assert found.verdict is verdict
        assert found.share == pytest.approx(part, rel=1e-3)
        assert (words in found.reason) is (verdict is Verdict.FAIL)


def test_rows_of_large_values_do_not_hide_those_of_others() -> None:
    expected = torch.ones(SIZE)
    expected[0] = 1000.0
    actual = expected.clone()
    actual[1:] += 0.1
    assert judge(expected, actual).verdict is Verdict.FAIL
    # A row that is small beside the others is judged by theirs.
    expected[0] = 1e-3
    actual = expected.clone()
    actual[0] += 1e-3
    assert judge(expected, actual).verdict is Verdict.OK


def test_zeros_must_stay_zeros() -> None:
    zeros = torch.zeros(4, 8)
    assert judge(zeros, zeros).verdict is Verdict.OK
    assert judge(zeros, zeros + 1e-9).verdict is Verdict.FAIL
    mostly = torch.zeros(SIZE)
    mostly[0] = 1.0
    assert judge(mostly, mostly * (1 + UNIT)).verdict is Verdict.OK


def test_what_is_finite_nowhere_is_unknown_and_on_one_side_a_fault() -> None:
    none = torch.full((2, 4), math.nan)
    assert judge(none, none).verdict is Verdict.UNKNOWN
    for thresholds in (Rounding(), Xray()):
        found = thresholds.judge(evidence(torch.ones(2, 4), none))
        assert found.verdict is Verdict.FAIL and "NaN 0 | 8" in found.reason


def test_exact_values_are_equal_or_wrong() -> None:
    ids = torch.tensor([[1, 2, 3]])
    one = replace(evidence(ids, ids), exact=True)
    assert Rounding().judge(one).verdict is Verdict.OK
    other = replace(evidence(ids, ids + torch.tensor([0, 0, 1])), exact=True)
    found = Rounding().judge(other)
    assert found.verdict is Verdict.FAIL and "1 elements differ" in found.reason


def test_rows_that_follow_another_choice_are_left_out() -> None:
    expected, follows = torch.ones(SIZE), torch.zeros(SIZE[0], dtype=torch.bool)
    actual = expected.clone()
    actual[:100] = -1.0
    follows[:100] = True
    found = replace(evidence(expected, actual), follows=follows)
    judged = Rounding().judge(found)
    assert judged.verdict is Verdict.OK and "100 of 2000 rows" in judged.reason
    follows[99] = False
    assert Rounding().judge(found).verdict is Verdict.FAIL
    judged = Rounding().judge(replace(found, follows=torch.ones_like(follows)))
    assert judged.verdict is Verdict.UNKNOWN and judged.share is None
    sound = replace(evidence(expected, expected), follows=torch.ones_like(follows))
    assert Rounding().judge(sound).verdict is Verdict.OK


def test_without_a_dtype_nothing_can_be_said() -> None:
    ones = torch.ones(2, 4)
    found = Rounding().judge(replace(evidence(ones, ones * 1.5), unit=None))
    assert found.verdict is Verdict.UNKNOWN and "computed in" in found.reason
    alone = replace(evidence(ones, ones * 1.5), unit=None, measured=None)
    assert Rounding().judge(alone).verdict is Verdict.UNKNOWN


def test_statistics_show_a_scale_and_a_shift() -> None:
    expected = torch.randn(SIZE, generator=torch.Generator().manual_seed(1))
    for actual, verdict in (
        (expected * (1 + UNIT), Verdict.OK),
        (expected * 1.2, Verdict.FAIL),
        (expected + 0.1, Verdict.FAIL),
        (expected.clamp(-1, 1), Verdict.FAIL),
    ):
        found = Rounding().judge(replace(evidence(expected, actual), measured=None))
        assert found.verdict is verdict and "alone" in found.reason
    exact = replace(evidence(expected, expected * 1.001), measured=None, exact=True)
    assert Rounding().judge(exact).verdict is Verdict.FAIL
    assert Xray().judge(replace(exact, exact=False)).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("largest", "verdict"),
    [(0.015625, Verdict.FAIL), (0.0078125, Verdict.OK), (0.00390625, Verdict.OK)],
)
def test_samples_of_torch_xray_have_their_status(largest: float, verdict: Verdict) -> None:
    expected = torch.ones(4, 8)
    actual = expected.clone()
    actual[2, 3] += largest
    assert Xray().judge(evidence(expected, actual)).verdict is verdict


def test_thresholds_go_by_name() -> None:
    assert thresholds_named("xray").name == "xray"
    with pytest.raises(UsageError, match="did you mean 'rounding'"):
        thresholds_named("roundin")


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_table_without_counts_says_in_its_numbers_what_is_not_finite(number: float) -> None:
    """As torch_xray's summaries do: their numbers are NaN where all of a tensor is."""
    sound = statistics(torch.randn(SIZE, generator=torch.Generator().manual_seed(1)))
    broken = replace(sound, minimum=number, maximum=number, mean=number, std=number)
    for sides in ((sound, broken), (broken, sound)):
        found = Rounding().judge(Evidence(None, sides, unit=UNIT, depth=1))
        assert found.verdict is Verdict.FAIL and found.share == math.inf

"""Sampling: greedy, filters, seeds, and whether draws follow the distribution."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from glmc_runtime.engine.sampling import Sampler, SamplingParameters, next_tokens
from glmc_runtime.engine.sampling.drawing import distribution
from glmc_runtime.errors import NumericsError, RequestError

LOGITS = torch.tensor([1.0, 3.0, -2.0, 3.0, 0.5, 2.0])


def _draw(number: int, **options: Any) -> list[int]:
    sampler = Sampler(SamplingParameters(**options))
    return [sampler.sample(LOGITS) for _ in range(number)]


def test_greedy_is_the_first_largest_raw_logit() -> None:
    samplers = [Sampler(SamplingParameters(top_k=1, top_p=0.1))] * 2
    assert next_tokens(samplers, torch.stack([LOGITS, -LOGITS])) == [1, 2]


def test_a_seed_repeats_and_seeds_differ() -> None:
    assert _draw(50, temperature=1.0, seed=3) == _draw(50, temperature=1.0, seed=3)
    assert _draw(50, temperature=1.0, seed=3) != _draw(50, temperature=1.0, seed=4)
    assert _draw(50, temperature=1.0) != _draw(50, temperature=1.0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    number = 4000
    draws = torch.tensor(_draw(number, temperature=temperature, seed=0))
    expected = torch.softmax(LOGITS.double() / temperature, 0) * number
    seen = torch.bincount(draws, minlength=6)
    chi_square = float(((seen - expected) ** 2 / expected).sum())
    assert chi_square < 20.5  # 5 degrees of freedom, 0.1 %


def test_top_k_keeps_the_likeliest_and_breaks_ties_by_id() -> None:
    assert set(_draw(300, temperature=5.0, top_k=3, seed=0)) == {1, 3, 5}
    assert set(_draw(300, temperature=5.0, top_k=1, seed=0)) == {1}
    assert set(_draw(300, temperature=9.0, top_k=100, seed=0)) == set(range(6))


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    kept, order = distribution(LOGITS, SamplingParameters(1.0, top_p=0.7))
    full = torch.softmax(LOGITS.double(), 0)
    assert order.tolist() == [1, 3]
    assert float(full[[1, 3]].sum()) >= 0.7 > float(full[1])
    torch.testing.assert_close(kept, full[[1, 3]])
    assert set(_draw(100, temperature=1.0, top_p=1e-9, seed=1)) == {1}


@pytest.mark.parametrize("spread", [0.01, 1.0, 20.0])
@pytest.mark.parametrize("top_p", [0.2, 0.9, 0.999])
def test_top_p_of_a_large_vocabulary_is_that_of_the_whole_sort(spread: float, top_p: float) -> None:
    logits = torch.randn(20_000, generator=torch.Generator().manual_seed(2)) * spread
    full, everything = torch.softmax(logits.double(), 0).sort(descending=True, stable=True)
    kept = int((full.cumsum(0) - full < top_p).sum())
    probabilities, order = distribution(logits, SamplingParameters(1.0, top_p=top_p))
    assert abs(len(order) - kept) <= 1  # the last one may fall to rounding
    shared = min(len(order), kept)
    assert torch.equal(order[:shared], everything[:shared])
    torch.testing.assert_close(probabilities[:shared], full[:shared])


def test_all_equal_logits_are_uniform() -> None:
    sampler = Sampler(SamplingParameters(1.0, seed=5))
    draws = torch.tensor([sampler.sample(torch.zeros(4)) for _ in range(4000)])
    assert float(((torch.bincount(draws) - 1000) ** 2 / 1000).sum()) < 16.3


def test_large_logits_and_impossible_tokens() -> None:
    logits = torch.tensor([-math.inf, 3e38, -3e38, -math.inf])
    sampler = Sampler(SamplingParameters(0.01, seed=0))
    assert {next_tokens([sampler], logits[None])[0] for _ in range(50)} == {1}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(bad: float, temperature: float) -> None:
    logits = torch.stack([LOGITS, LOGITS])
    logits[1, 2] = bad
    samplers = [Sampler(SamplingParameters(temperature))] * 2
    with pytest.raises(NumericsError, match="not finite"):
        next_tokens(samplers, logits)


def test_low_precision_logits_are_sampled_in_double() -> None:
    sampler = Sampler(SamplingParameters(1.0, seed=0))
    assert sampler.sample(LOGITS.bfloat16()) in range(6)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"seed": 2**64},
    ],
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(options))):
        SamplingParameters(**options)


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_p": 0.5}])
def test_a_temperature_close_to_zero_is_greedy(options: dict[str, float]) -> None:
    parameters = SamplingParameters(temperature=1e-310, seed=1, **options)  # type: ignore[arg-type]
    assert Sampler(parameters).sample(torch.tensor([1.0, 3.0, 2.0])) == 1

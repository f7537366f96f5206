"""Filters beside top-k and top-p, by their definitions on a large vocabulary."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import pytest
import torch

from glmc_runtime.engine import sampling
from glmc_runtime.engine.sampling import SamplingParameters
from glmc_runtime.engine.sampling.drawing import distribution


def _logits(spread: float) -> torch.Tensor:
    return torch.randn(20_000, generator=torch.Generator().manual_seed(7)) * spread


@pytest.mark.parametrize("spread", [0.01, 1.0, 8.0])
@pytest.mark.parametrize("min_p", [1e-6, 0.05, 0.5, 1.0])
def test_min_p_keeps_a_share_of_the_likeliest(spread: float, min_p: float) -> None:
    logits = _logits(spread)
    full = torch.softmax(logits.double(), 0)
    probabilities, order = distribution(logits, SamplingParameters(1.0, min_p=min_p))
    expected = (full >= min_p * full.max()).nonzero().view(-1)
    assert sorted(order.tolist()) == expected.tolist()
    kept = full[order]
    torch.testing.assert_close(probabilities / probabilities.sum(), kept / kept.sum())
    assert probabilities.tolist() == sorted(probabilities.tolist(), reverse=True)


@pytest.mark.parametrize("spread", [1.0, 8.0])
@pytest.mark.parametrize("mass", [0.1, 0.5, 0.95])
def test_typical_p_keeps_the_closest_to_the_entropy(spread: float, mass: float) -> None:
    logits = _logits(spread)
    full = torch.softmax(logits.double(), 0)
    distance = (-full.log() + (full * full.log()).sum()).abs()
    _, order = distribution(logits, SamplingParameters(1.0, typical_p=mass))
    dropped = torch.ones(len(full), dtype=torch.bool)
    dropped[order] = False
    assert float(full[order].sum()) >= mass > float(full[order].sum() - full[order].max())
    assert float(distance[order].max()) <= float(distance[dropped].min())


def test_min_p_looks_at_what_other_filters_left() -> None:
    logits = torch.tensor([3.0, 2.9, 2.0, 1.0])
    parameters = SamplingParameters(1.0, top_k=3, top_p=0.99, min_p=0.5)
    assert distribution(logits, parameters)[1].tolist() == [0, 1]
    banned = torch.tensor([-torch.inf, 2.9, 2.0, -torch.inf])
    assert distribution(banned, SamplingParameters(1.0, min_p=1e-9))[1].tolist() == [1, 2]


def test_no_module_stands_where_the_package_has_a_function() -> None:
    """An import of a module sets its name in the package, whatever had it before."""
    for module in pkgutil.iter_modules(sampling.__path__):
        import_module(f"{sampling.__name__}.{module.name}")
    assert sampling.distribution is distribution
    assert all(callable(getattr(sampling, name)) for name in sampling.__all__)

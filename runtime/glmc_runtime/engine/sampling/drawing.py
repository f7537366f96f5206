"""The distribution that a token is drawn from: temperature, then the filters."""

from __future__ import annotations

import math

import torch

from glmc_runtime.engine.sampling.parameters import SamplingParameters

# Tokens looked at first for top-p; they nearly always hold its mass.
_LEADING = 1024


def distribution(
    logits: torch.Tensor, parameters: SamplingParameters
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (float64, only those kept, not renormalised) and their token ids.

    Order of operations as in transformers: temperature, top-k, top-p, min-p, typical-p. With a
    filter the likeliest come first, and ties are ordered (and cut) by the token id. The whole
    vocabulary is sorted only when top-p reaches far into it.
    """
    raw = logits.to("cpu", torch.float64)
    # The largest becomes 0, so that no temperature, however low, makes an infinity of it.
    scaled = (raw - raw.max()) / parameters.temperature
    vocabulary = scaled.numel()
    if parameters.top_k:
        order = _largest(scaled, parameters.top_k)
        probabilities = torch.softmax(scaled[order], 0)
    elif parameters.top_p < 1:
        total = torch.logsumexp(scaled, 0)
        for count in (_LEADING, vocabulary):
            order = _largest(scaled, count)
            probabilities = torch.exp(scaled[order] - total)
            if float(probabilities.sum()) >= parameters.top_p:
                break
    elif parameters.min_p:
        likely = (scaled >= math.log(parameters.min_p)).nonzero().view(-1)
        order = likely[_largest(scaled[likely], len(likely))]
        probabilities = torch.softmax(scaled[order], 0)
    elif parameters.typical_p < 1:
        order = _largest(scaled, vocabulary)
        probabilities = torch.softmax(scaled[order], 0)
    else:
        return torch.softmax(scaled, 0), torch.arange(vocabulary, device="cpu")
    if parameters.top_p < 1:
        before = probabilities.cumsum(0) - probabilities
        kept = max(1, int((before < parameters.top_p).sum()))
        probabilities, order = probabilities[:kept], order[:kept]
    if parameters.min_p:
        kept = int((probabilities >= parameters.min_p * probabilities[0]).sum())
        probabilities, order = probabilities[:kept], order[:kept]
    if parameters.typical_p < 1:
        typical = _typical(probabilities, parameters.typical_p)
        probabilities, order = probabilities[typical], order[typical]
    return probabilities, order


def _typical(probabilities: torch.Tensor, mass: float) -> torch.Tensor:
    """Which tokens are the most typical ones that hold ``mass``: those whose information is the
    closest to the entropy of all (Meister et al., "Locally Typical Sampling")."""
    normalised = probabilities / probabilities.sum()
    information = -normalised.log()
    entropy = (normalised * information).nansum()
    distance = (information - entropy).abs()
    nearest = torch.sort(distance, stable=True)
    cumulative = normalised[nearest.indices].cumsum(0)
    last = min(int((cumulative < mass).sum()), len(cumulative) - 1)
    return distance <= nearest.values[last]


def _largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Places of the ``count`` largest, largest first, ties by place."""
    count = min(count, values.numel())
    candidates = (values >= torch.topk(values, count).values[-1]).nonzero().view(-1)
    order = torch.sort(values[candidates], descending=True, stable=True).indices
    return candidates[order[:count]]

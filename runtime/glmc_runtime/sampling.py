"""Choose the next token from one row of logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from glmc_runtime.errors import NumericsError, RequestError


@dataclass(frozen=True)
class SamplingParameters:
    """``temperature`` 0 is greedy: the argmax of the raw logits, and the rest is ignored.

    ``top_k`` 0 keeps all tokens; ``top_p`` keeps the smallest set of likeliest tokens whose
    probability reaches it. With a ``seed`` a request has random numbers of its own, whatever else
    is in its batch (its logits may differ there in the last bits); None draws another seed each
    time. Prompts that share one seed share its random numbers, too.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        self._refuse_unless(
            math.isfinite(self.temperature) and self.temperature >= 0, "temperature", "at least 0"
        )
        self._refuse_unless(self.top_k >= 0, "top_k", "at least 0 (0 keeps all)")
        self._refuse_unless(0 < self.top_p <= 1, "top_p", "above 0, at most 1")
        self._refuse_unless(
            self.seed is None or -(2**63) <= self.seed < 2**63, "seed", "a 64-bit integer"
        )

    def _refuse_unless(self, holds: bool, name: str, expected: str) -> None:
        if not holds:
            raise RequestError(
                f"the sampling option {name} is out of range",
                expected=expected,
                found=repr(getattr(self, name)),
            )


# Tokens looked at first for top-p; they nearly always hold its mass.
_LEADING = 1024


class Sampler:
    """The sampling state of one request: its own generator, so that batches do not matter."""

    def __init__(self, parameters: SamplingParameters) -> None:
        self.parameters = parameters
        self.generator = torch.Generator()
        if parameters.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(parameters.seed)

    @property
    def greedy(self) -> bool:
        return self.parameters.temperature == 0

    def sample(self, logits: torch.Tensor) -> int:
        """One token id from ``logits`` [vocabulary]; one uniform number is drawn per token."""
        scores, order = distribution(logits, self.parameters)
        total = scores.cumsum(0)
        draw = torch.rand((), generator=self.generator, dtype=torch.float64) * total[-1]
        place = int(torch.searchsorted(total, draw, right=True).clamp(max=len(total) - 1))
        return int(order[place])


def next_tokens(samplers: list[Sampler], logits: torch.Tensor) -> list[int]:
    """The next token of each row of ``logits`` [requests, vocabulary].

    Greedy rows cost one argmax for the whole batch. Raises :class:`NumericsError` for a row that
    holds NaN or whose largest value is not finite.
    """
    largest, best = logits.max(-1)
    if not bool(largest.isfinite().all()):
        raise not_finite(f"largest logits {largest.tolist()[:4]}")
    return [
        token if sampler.greedy else sampler.sample(row)
        for sampler, token, row in zip(samplers, best.tolist(), logits, strict=True)
    ]


def not_finite(found: str) -> NumericsError:
    """The error of a step after which no token can be chosen."""
    return NumericsError(
        "the model's logits are not finite: no token can be chosen",
        found=found,
        remedy="compile with another dtype, or compare the layers with a reference",
    )


def distribution(
    logits: torch.Tensor, parameters: SamplingParameters
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (float64, only those kept, not renormalised) and their token ids.

    Order of operations as everywhere: temperature, then top-k, then top-p. With a filter the
    likeliest come first, and ties are ordered (and cut) by the token id. The whole vocabulary is
    sorted only when top-p reaches far into it.
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
    else:
        return torch.softmax(scaled, 0), torch.arange(vocabulary)
    if parameters.top_p < 1:
        before = probabilities.cumsum(0) - probabilities
        kept = max(1, int((before < parameters.top_p).sum()))
        probabilities, order = probabilities[:kept], order[:kept]
    return probabilities, order


def _largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Places of the ``count`` largest, largest first, ties by place."""
    count = min(count, values.numel())
    candidates = (values >= torch.topk(values, count).values[-1]).nonzero().view(-1)
    order = torch.sort(values[candidates], descending=True, stable=True).indices
    return candidates[order[:count]]

"""Choose the next token of each request from the rows of logits of a step."""

from __future__ import annotations

import math
from collections.abc import Sequence as ListLike

import torch

from glmc_runtime.engine.sampling.drawing import distribution
from glmc_runtime.engine.sampling.logprobs import TokenLogprobs, token_logprobs
from glmc_runtime.engine.sampling.parameters import SamplingParameters
from glmc_runtime.engine.sampling.processors import History, processors
from glmc_runtime.errors import NumericsError, RequestError


class Sampler:
    """The sampling state of one request: a generator and a history of its own, so that batches do
    not matter. ``prompt`` are its tokens so far, ``ends`` those that end its answer, ``logprobs``
    says how many of the likeliest tokens are named beside the chosen one (None: not even that).
    """

    def __init__(
        self,
        parameters: SamplingParameters,
        prompt: ListLike[int] = (),
        ends: frozenset[int] = frozenset(),
        logprobs: int | None = None,
    ) -> None:
        self.parameters = parameters
        self.logprobs: TokenLogprobs | None = None
        self.generator = torch.Generator("cpu")
        self._seeded = False
        self._named = logprobs
        self._processors = processors(parameters, ends)
        self._history = History(prompt if self._processors else ())

    @property
    def needs_logits(self) -> bool:
        """Whether it takes more than the likeliest token of the raw logits. All that decides about
        greedy tokens of the plans and about running ahead asks this."""
        return bool(self._processors) or self._named is not None or not self.parameters.greedy

    def choose(self, row: torch.Tensor) -> int:
        """The next token from one row of raw logits [vocabulary]."""
        scores = self.processed(row)
        token = int(scores.argmax()) if self.parameters.greedy else self.sample(scores)
        if self._processors:
            self._history.add(token)
        if self._named is not None:
            self.logprobs = token_logprobs(row, token, self._named)
        return token

    def processed(self, row: torch.Tensor) -> torch.Tensor:
        """The logits as the options change them; raises :class:`RequestError` where no token is
        left."""
        if not self._processors:
            return row
        scores = row.to(torch.float32)
        for process in self._processors:
            scores = process(scores, self._history)
        largest = float(scores.max())
        if not math.isfinite(largest):
            raise _nothing_left(largest)
        return scores

    def sample(self, logits: torch.Tensor) -> int:
        """One token id from ``logits`` [vocabulary]; one uniform number is drawn per token."""
        if not self._seeded:
            self._seed()
        scores, order = distribution(logits, self.parameters)
        total = scores.cumsum(0)
        uniform = torch.rand((), generator=self.generator, dtype=torch.float64, device="cpu")
        place = int(
            torch.searchsorted(total, uniform * total[-1], right=True).clamp(max=len(total) - 1)
        )
        return int(order[place])

    def _seed(self) -> None:
        if self.parameters.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(self.parameters.seed)
        self._seeded = True


def next_tokens(samplers: ListLike[Sampler], logits: torch.Tensor) -> list[int]:
    """The next token of each row of ``logits`` [requests, vocabulary].

    Greedy rows without options cost one argmax for the whole batch. Raises :class:`NumericsError`
    for a row that holds NaN or whose largest value is not finite, and :class:`RequestError` where
    the options of a request leave no token.
    """
    largest, best = logits.max(-1)
    if not bool(largest.isfinite().all()):
        raise not_finite(f"largest logits {largest.tolist()[:4]}")
    return [
        sampler.choose(row) if sampler.needs_logits else token
        for sampler, token, row in zip(samplers, best.tolist(), logits, strict=True)
    ]


def not_finite(reason: str) -> NumericsError:
    """The error of a step after which no token can be chosen."""
    return NumericsError(
        "the model's logits are not finite: no token can be chosen",
        found=reason,
        remedy="compile with another dtype, or compare the layers with a reference",
    )


def _nothing_left(largest: float) -> RequestError:
    if largest == -math.inf:
        return RequestError(
            "the options of a request forbid every token of the vocabulary",
            remedy="forbid fewer tokens by bad_words, suppress_tokens and the like",
        )
    return RequestError(
        "the options of a request make logits that are no finite numbers",
        found=f"a largest logit of {largest}",
        remedy="choose a repetition_penalty and a logit_bias of usual sizes",
    )

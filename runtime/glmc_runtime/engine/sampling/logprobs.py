"""Log probabilities of tokens, as the model itself gives them.

They are those of the raw logits, before any bias, penalty, temperature or filter, as vLLM has them
unless told otherwise; so they do not depend on how a token was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TokenLogprobs:
    """The natural log probability of the token that was chosen, and ``top``: the likeliest tokens
    with theirs, the likeliest first (which may or may not hold the chosen one)."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def token_logprobs(row: torch.Tensor, token: int, number: int) -> TokenLogprobs:
    """Of one row of raw logits; ``number`` is how many of the likeliest are named."""
    logprobs = torch.log_softmax(row.to(torch.float32), 0)
    best = torch.topk(logprobs, min(number, len(logprobs)))
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprobs(token, float(logprobs[token]), top)

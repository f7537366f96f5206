"""The experts that two routers chose, whatever order they name them in.

Two right sides may choose other experts: where scores are next to equal, an error of rounding
decides. How much of a difference it explains follows from the error of what the router read, e as a
share of its magnitude: a logit is a product with it, so its error is about e times the logits' own
root mean square l, and that of its sigmoid at most a quarter of it. Of sound runs of two attention
implementations in bfloat16 and float16 (trained and random models of 3 to 30 layers, 16 and 64
experts) the largest exchange was of scores 6.5 times e * l / 4 apart; a bias left out or a wrong
row of weights gave 30 and more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from glmc.check.align.module_tree import spelled
from glmc.check.align.result import RouterAgreement
from glmc_runtime.record.tensors import RecordedTensor

EXPLAINED = 12.0
_LEAST_SCORE = 1e-3


@dataclass(frozen=True)
class Choice:
    """Of the tokens that both sides have: the ids of each side, ascending; ``same`` says of each
    token whether both chose the same experts."""

    expected: Tensor
    actual: Tensor

    @property
    def same(self) -> Tensor:
        return (self.expected == self.actual).all(-1)


def is_choice(expected: RecordedTensor, actual: RecordedTensor) -> bool:
    """Whether two tensors are ids of experts: whole numbers, what a router returns or experts
    take."""
    modules = {spelled(each.key.module.rpartition(".")[2]) for each in (expected, actual)}
    floating = any("float" in each.dtype for each in (expected, actual))
    return not floating and bool(modules & {"gate", "experts"})


def choice(expected: Tensor, actual: Tensor) -> Choice:
    """Of ids [tokens, experts per token], as a side names them."""
    return Choice(expected.long().sort(-1)[0], actual.long().sort(-1)[0])


def by_expert(weights: Tensor, ids: Tensor) -> Tensor:
    """Weights in the order of the experts' ids."""
    return weights.gather(1, ids.long().argsort(-1))


def agreement(chosen: Choice, scores: Tensor | None, errors: Tensor | None) -> RouterAgreement:
    """``scores`` are the reference's [tokens, experts], by which it chooses; ``errors`` those of
    what the router read, by token, as a share of its magnitude."""
    same = chosen.same
    found = RouterAgreement(len(same), int(same.sum()), None)
    if scores is None or scores.shape[0] != len(same):
        return found
    apart = (~same).nonzero().flatten().tolist()
    margins = [_margin(chosen, scores, token) for token in apart]
    if any(margin is None for margin in margins):
        return found
    ties = None
    if errors is not None:
        ties = tuple(_tie(scores[token], float(errors[token])) for token in apart)
    known = tuple(margin for margin in margins if margin is not None)
    return RouterAgreement(found.tokens, found.agreeing, known, ties)


def _margin(chosen: Choice, scores: Tensor, token: int) -> float | None:
    """How far apart the scores are of what was exchanged; None where the scores do not choose so,
    as those of experts whose group was left out."""
    expected, actual = (set(side[token].tolist()) for side in (chosen.expected, chosen.actual))
    experts = range(scores.shape[1])
    if not all(expert in experts for expert in expected | actual):
        return None
    row = scores[token].double()
    left_out, taken = sorted(expected - actual), sorted(actual - expected)
    if not left_out or not taken:
        return None
    margin = float(row[left_out].max() - row[taken].min())
    rest = [expert for expert in experts if expert not in expected]
    by_scores = float(row[sorted(expected)].min() - row[rest].max())
    return max(margin, 0.0) if by_scores >= -_rounding(row) else None


def _rounding(row: Tensor) -> float:
    """What the sums of a score may differ by between two computations of it in float32."""
    return 64 * torch.finfo(torch.float32).eps * float(row.abs().max())


def _tie(row: Tensor, error: float) -> float:
    scores = row.double().clamp(_LEAST_SCORE, 1 - _LEAST_SCORE)
    logits = math.sqrt(float(scores.logit().square().mean()))
    return EXPLAINED * error * logits / 4 + _rounding(row)

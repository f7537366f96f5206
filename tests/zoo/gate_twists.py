"""Routers that look right and are not: each must be refused, with the reason beside it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.gate import EXPERTS, TOP_K, Dropping, Gate


class LowPrecision(Gate):
    """The product is in the dtype of the model; only its result is float32."""

    def logits(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight).float()


class RouterBias(Gate):
    def logits(self, x: Tensor) -> Tensor:
        return F.linear(x.float(), self.weight.float(), self.bias)


class Softmax(Gate):
    def scores(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)


class WeighsBiased(Gate):
    def gathered(self, scores: Tensor, choice: Tensor, ids: Tensor) -> Tensor:
        return choice.gather(1, ids)


class NoCorrection(Gate):
    def biased(self, scores: Tensor) -> Tensor:
        return scores


class ScaledCorrection(Gate):
    def biased(self, scores: Tensor) -> Tensor:
        return torch.add(scores, self.bias, alpha=2)


class ChoosesByOthers(Gate):
    def biased(self, scores: Tensor) -> Tensor:
        return scores.sqrt() + self.bias


class LowPrecisionCorrection(Gate):
    def __init__(self, *arguments: object):
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.bias = nn.Buffer(self.bias.bfloat16())


class Sorted(Gate):
    def chosen(self, choice: Tensor) -> Tensor:
        return torch.topk(choice, k=TOP_K, dim=-1)[1]


class Smallest(Gate):
    def chosen(self, choice: Tensor) -> Tensor:
        return torch.topk(choice, k=TOP_K, dim=-1, largest=False, sorted=False)[1]


class BestOfGroup(Gate):
    def group_scores(self, by_group: Tensor) -> Tensor:
        return by_group.amax(-1)


class OneBestOfGroup(Gate):
    def group_scores(self, by_group: Tensor) -> Tensor:
        return by_group.topk(1, dim=-1)[0].sum(dim=-1)


class GroupsByUnbiased(Gate):
    def by_group(self, choice: Tensor) -> Tensor:
        return super().by_group(choice - self.bias)


class Interleaved(Gate):
    """Expert e belongs to group e modulo groups."""

    def widened(self, mask: Tensor) -> Tensor:
        return mask.unsqueeze(1).expand(-1, EXPERTS // self.groups, -1).reshape(-1, EXPERTS)


class DropsTheBest(Gate):
    def masked(self, choice: Tensor) -> Tensor:
        return choice.masked_fill(self.widened(self.group_mask(choice)).bool(), self.fill)


class TwosInMask(Gate):
    def marked(self, scores: Tensor, best: Tensor) -> Tensor:
        return torch.zeros_like(scores).scatter_(1, best, 2)


class DroppingTheBest(Dropping):
    """True at the groups that stay, and these are filled."""

    def marked(self, scores: Tensor, best: Tensor) -> Tensor:
        return super().marked(scores, best).logical_not()


class OneHotOfExperts(Gate):
    """Counts experts where groups should be counted."""

    def marked(self, scores: Tensor, best: Tensor) -> Tensor:
        return F.one_hot(best, EXPERTS).sum(1)

    def widened(self, mask: Tensor) -> Tensor:
        return mask


class Exponential(Gate):
    """Equal on paper; the rounding is another one."""

    def scores(self, logits: Tensor) -> Tensor:
        return 1 / (1 + torch.exp(-logits))


class ClampedSum(Gate):
    def normalized(self, weights: Tensor) -> Tensor:
        return weights / weights.sum(-1, keepdim=True).clamp_min(1e-9)


class LearnedEps(Gate):
    def normalized(self, weights: Tensor) -> Tensor:
        return weights / (weights.sum(-1, keepdim=True) + self.bias[:1])


class Reciprocal(Gate):
    def normalized(self, weights: Tensor) -> Tensor:
        return weights * weights.sum(-1, keepdim=True).reciprocal()


class NormalizedLast(Gate):
    def route(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        weights, ids, scores, logits = super().route(x)
        return weights / (weights.sum(-1, keepdim=True) + self.eps), ids, scores, logits

    normalize = False


class ScaledTwice(Gate):
    def scaled(self, weights: Tensor) -> Tensor:
        return weights * 2.5 * 2.5


class ScaledByView(Gate):
    """The second factor sits after a reshape, on the way to the experts."""

    def scaled(self, weights: Tensor) -> Tensor:
        return (weights * 2.5).reshape(-1) * 2.5


class ScaledOutput(Gate):
    """The second factor sits on the routed output."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.tokens(x)
        weights, ids, _, _ = self.route(x)
        rows = x.repeat_interleave(TOP_K, 0) * weights.reshape(-1, 1)
        return rows.view(-1, TOP_K, x.shape[-1]).sum(1) * 2.5, ids


TWISTS: dict[type[Gate], str] = {
    LowPrecision: "the router must be computed in float32",
    RouterBias: "the router must have no bias in its linear",
    Softmax: "expected aten.sigmoid but found aten.softmax",
    WeighsBiased: "experts must be weighed by their unbiased scores",
    NoCorrection: "experts must be chosen by scores plus a correction",
    ScaledCorrection: "the correction bias must be added unscaled",
    ChoosesByOthers: "experts must be chosen by the scores that weigh them",
    LowPrecisionCorrection: "the correction must be one float32 value for each expert",
    Sorted: "the chosen experts must be unsorted",
    Smallest: "top-k must take the largest",
    BestOfGroup: "the score of a group must be the sum of its two best scores",
    OneBestOfGroup: "the score of a group must be the sum of its two best scores",
    GroupsByUnbiased: "groups must be chosen by the biased scores",
    Interleaved: "the group mask must be widened to contiguous groups of experts",
    DropsTheBest: "the best groups must be kept and the others filled",
    TwosInMask: "the group mask must be 1 at the chosen groups",
    DroppingTheBest: "the best groups must be kept and the others filled",
    OneHotOfExperts: "the group mask must have one value a group",
    Exponential: "expected aten.sigmoid but found aten.reciprocal",
    ClampedSum: "expected aten.add but found aten.clamp_min",
    LearnedEps: "the weights must be divided by their sum plus a literal eps",
    Reciprocal: "the weights must be divided once, by their own sum",
    NormalizedLast: "the weights must be normalised before they are scaled",
    ScaledTwice: "the routed scale must be applied once, not 2 times",
    ScaledByView: "the routed scale must be applied once, not 2 times",
    ScaledOutput: "the routed scale must be applied once, not 2 times",
}

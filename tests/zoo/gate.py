"""Routers as people write them: one base class with a method for each step, variants override.

All see [batch, tokens, hidden] or [tokens, hidden].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN, EXPERTS, TOP_K = 16, 8, 2


class Gate(nn.Module):
    """As transformers writes it since 5.8: masked groups become -inf."""

    fill = float("-inf")
    scale = 2.5
    eps = 1e-20
    normalize = True

    def __init__(self, groups: int = 4, top_groups: int = 2, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.groups, self.top_groups = groups, top_groups
        self.weight = nn.Parameter(torch.randn(EXPERTS, HIDDEN).mul(0.5).to(dtype))
        self.bias = nn.Buffer(torch.randn(EXPERTS) * 0.1)

    def tokens(self, x: Tensor) -> Tensor:
        return x.view(-1, HIDDEN) if x.dim() > 2 else x

    def logits(self, x: Tensor) -> Tensor:
        return F.linear(x.float(), self.weight.float())

    def scores(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def biased(self, scores: Tensor) -> Tensor:
        return scores + self.bias

    def group_scores(self, by_group: Tensor) -> Tensor:
        return by_group.topk(2, dim=-1)[0].sum(dim=-1)

    def by_group(self, choice: Tensor) -> Tensor:
        return choice.view(-1, self.groups, EXPERTS // self.groups)

    def group_mask(self, choice: Tensor) -> Tensor:
        scores = self.group_scores(self.by_group(choice))
        best = torch.topk(scores, k=self.top_groups, dim=-1, sorted=False)[1]
        return self.marked(scores, best)

    def marked(self, scores: Tensor, best: Tensor) -> Tensor:
        return torch.zeros_like(scores).scatter_(1, best, 1)

    def widened(self, mask: Tensor) -> Tensor:
        members = EXPERTS // self.groups
        return mask.unsqueeze(-1).expand(-1, self.groups, members).reshape(-1, EXPERTS)

    def masked(self, choice: Tensor) -> Tensor:
        keep = self.widened(self.group_mask(choice)).bool()
        return choice.masked_fill(~keep, self.fill)

    def chosen(self, choice: Tensor) -> Tensor:
        return torch.topk(choice, k=TOP_K, dim=-1, sorted=False)[1]

    def gathered(self, scores: Tensor, choice: Tensor, ids: Tensor) -> Tensor:
        return scores.gather(1, ids)

    def normalized(self, weights: Tensor) -> Tensor:
        if not self.normalize:
            return weights
        weights /= weights.sum(dim=-1, keepdim=True) + self.eps
        return weights

    def scaled(self, weights: Tensor) -> Tensor:
        return weights * self.scale

    def route(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits = self.logits(self.tokens(x))
        scores = self.scores(logits)
        biased = self.biased(scores)
        ids = self.chosen(self.masked(biased))
        weights = self.scaled(self.normalized(self.gathered(scores, biased, ids)))
        return weights, ids, scores, logits

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.route(x)[:2]


class ZeroFill(Gate):
    """A masked expert can win over a negative score."""

    fill = 0.0


class Legacy(ZeroFill):
    """Also without gradients for the choice."""

    @torch.no_grad()
    def biased(self, scores: Tensor) -> Tensor:
        return scores.view(-1, EXPERTS) + self.bias.unsqueeze(0)


class Where(Gate):
    def masked(self, choice: Tensor) -> Tensor:
        keep = self.widened(self.group_mask(choice)).bool()
        return torch.where(keep, choice, self.fill)


class WhereInverted(ZeroFill):
    def masked(self, choice: Tensor) -> Tensor:
        drop = self.widened(self.group_mask(choice)) == 0
        return torch.where(drop, self.fill, choice)


class ByGroup(Gate):
    """The mask is applied before the groups are flattened again."""

    def masked(self, choice: Tensor) -> Tensor:
        drop = ~self.group_mask(choice).bool().unsqueeze(-1)
        drop = drop.expand(-1, self.groups, EXPERTS // self.groups)
        return self.by_group(choice).masked_fill(drop, self.fill).flatten(1)


class Dropping(Gate):
    """The mask is True at the groups that go, and broadcast over their experts."""

    def marked(self, scores: Tensor, best: Tensor) -> Tensor:
        return scores.new_ones(scores.shape, dtype=torch.bool).scatter_(1, best, False)

    def masked(self, choice: Tensor) -> Tensor:
        drop = self.group_mask(choice).unsqueeze(-1)
        return self.by_group(choice).masked_fill_(drop, self.fill).flatten(1)


class RepeatedMask(Gate):
    def widened(self, mask: Tensor) -> Tensor:
        return mask.repeat_interleave(EXPERTS // self.groups, dim=1)


class BoolMask(Gate):
    def marked(self, scores: Tensor, best: Tensor) -> Tensor:
        return torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, True)


class ScatteredOnes(Gate):
    def marked(self, scores: Tensor, best: Tensor) -> Tensor:
        return torch.zeros_like(scores).scatter(1, best, torch.ones_like(scores))


class OneHot(Gate):
    def marked(self, scores: Tensor, best: Tensor) -> Tensor:
        return F.one_hot(best, self.groups).sum(1)


class MatrixProduct(Gate):
    def logits(self, x: Tensor) -> Tensor:
        return x.float() @ self.weight.float().t()


class Einsum(Gate):
    def logits(self, x: Tensor) -> Tensor:
        return torch.einsum("th,eh->te", x.float(), self.weight.float())


class TakeAlong(Gate):
    def gathered(self, scores: Tensor, choice: Tensor, ids: Tensor) -> Tensor:
        return torch.take_along_dim(scores, ids, dim=-1)


class Indexed(Gate):
    def gathered(self, scores: Tensor, choice: Tensor, ids: Tensor) -> Tensor:
        return scores[torch.arange(scores.shape[0])[:, None], ids]


class SumUnsqueezed(Gate):
    def normalized(self, weights: Tensor) -> Tensor:
        return weights / (weights.sum(-1) + self.eps).unsqueeze(-1)


class FactorFirst(Gate):
    def scaled(self, weights: Tensor) -> Tensor:
        return self.scale * weights


class Batched(Gate):
    """The router sees [batch, tokens, hidden]."""

    def tokens(self, x: Tensor) -> Tensor:
        return x

    def logits(self, x: Tensor) -> Tensor:
        return super().logits(x).view(-1, EXPERTS)


class Observed(Gate):
    """Scores and logits leave as well (a balance loss would read them)."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        weights, ids, scores, logits = self.route(x)
        return weights, ids, scores.mean(0), logits


# spelling -> where it comes from
SPELLINGS: dict[type[Gate], str] = {
    Gate: "transformers 5.8 to 5.23",
    ZeroFill: "transformers 5.0 to 5.5: masked groups become 0",
    Legacy: "transformers 4.57: as 5.0, the correction as a row, chosen without gradients",
    Where: "user rewrite: where in place of masked_fill",
    WhereInverted: "user rewrite: where the mask is 0, masked groups become 0",
    ByGroup: "user rewrite: masked in [tokens, groups, experts of a group]",
    Dropping: "user rewrite: as in DeepSeek-V3's inference code, a broadcast mask of what goes",
    RepeatedMask: "user rewrite: the mask widened by repeat_interleave",
    BoolMask: "user rewrite: True scattered over False",
    ScatteredOnes: "user rewrite: a tensor of ones scattered",
    OneHot: "user rewrite: one_hot, summed over the chosen groups",
    MatrixProduct: "user rewrite: a product with the transposed weight",
    Einsum: "user rewrite: einsum",
    TakeAlong: "user rewrite: take_along_dim in place of gather",
    Indexed: "user rewrite: scores indexed by row and expert",
    SumUnsqueezed: "user rewrite: a sum without keepdim, then unsqueeze",
    FactorFirst: "user rewrite: the routed scale on the left",
    Batched: "user rewrite: logits of [batch, tokens, hidden], then flattened",
    Observed: "user rewrite: scores and logits are also returned",
}


class NoGroups(Gate):
    def masked(self, choice: Tensor) -> Tensor:
        return choice


class BareSum(Gate):
    """Divides by the plain sum: an eps of 0."""

    def normalized(self, weights: Tensor) -> Tensor:
        return weights / weights.sum(-1, keepdim=True)


class Unnormalized(Gate):
    normalize = False


class Unscaled(Gate):
    scale = 1.0


# No spellings: other constants, which the canonical node has as well.
SETTINGS: tuple[type[Gate], ...] = (NoGroups, BareSum, Unnormalized, Unscaled)

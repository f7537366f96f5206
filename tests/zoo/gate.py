"""Routers as people write them: one base class with a method for each step, variants override."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN, EXPERTS, TOP_K = 16, 8, 2


class Gate(nn.Module):
    """As in the newest transformers: masked groups become -inf."""

    fill = float("-inf")
    scale = 2.5
    eps = 1e-20
    normalize = True

    def __init__(self, groups: int = 4, top_groups: int = 2, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.groups, self.top_groups = groups, top_groups
        self.weight = nn.Parameter(torch.randn(EXPERTS, HIDDEN).mul(0.5).to(dtype))
        self.bias = nn.Buffer(torch.randn(EXPERTS) * 0.1)

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
        logits = self.logits(x)
        scores = self.scores(logits)
        biased = self.biased(scores)
        ids = self.chosen(self.masked(biased))
        weights = self.scaled(self.normalized(self.gathered(scores, biased, ids)))
        return weights, ids, scores, logits

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.route(x)[:2]


class ZeroFill(Gate):
    """transformers 5.0 to 5.5: a masked expert can win over a negative score."""

    fill = 0.0


class Legacy(ZeroFill):
    """transformers 4.57: the bias is given a row, the scores are viewed."""

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


class RepeatedMask(Gate):
    def widened(self, mask: Tensor) -> Tensor:
        return mask.repeat_interleave(EXPERTS // self.groups, dim=1)


class NoGroups(Gate):
    def masked(self, choice: Tensor) -> Tensor:
        return choice


class MatrixProduct(Gate):
    def logits(self, x: Tensor) -> Tensor:
        return x.float() @ self.weight.float().t()


class BareSum(Gate):
    """Divides by the plain sum: an eps of 0."""

    def normalized(self, weights: Tensor) -> Tensor:
        return weights / weights.sum(-1, keepdim=True)


class Unnormalized(Gate):
    normalize = False


class Unscaled(Gate):
    scale = 1.0


class ScaledFirst(Gate):
    """The factor on the left, no normalisation."""

    normalize = False

    def scaled(self, weights: Tensor) -> Tensor:
        return 2.5 * weights


class Batched(Gate):
    """The router sees [batch, tokens, hidden] and flattens its logits."""

    def logits(self, x: Tensor) -> Tensor:
        return super().logits(x).view(-1, EXPERTS)


class Observed(Gate):
    """Scores and logits leave as well (a balance loss would read them)."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        weights, ids, scores, logits = self.route(x)
        return weights, ids, scores.mean(0), logits


SPELLINGS: tuple[type[Gate], ...] = (
    Gate,
    ZeroFill,
    Legacy,
    Where,
    WhereInverted,
    ByGroup,
    RepeatedMask,
    NoGroups,
    MatrixProduct,
    BareSum,
    Unnormalized,
    Unscaled,
    ScaledFirst,
    Batched,
    Observed,
)

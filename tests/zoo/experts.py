"""Routed experts as people write them, behind a router of the zoo."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.gate import EXPERTS, HIDDEN, TOP_K, Gate

WIDTH = 8


class Batched(nn.Module):
    """transformers 5.8 and later: the chosen experts' matrices are gathered."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.gate = Gate(1, 1, dtype)
        self.gate_up = nn.Parameter((torch.randn(EXPERTS, 2 * WIDTH, HIDDEN) * 0.3).to(dtype))
        self.down = nn.Parameter((torch.randn(EXPERTS, HIDDEN, WIDTH) * 0.3).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        weights, ids = self.gate(x)
        return self.experts(x, ids, weights)

    def experts(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        chosen = self.ids(ids)
        both = self.product(self.gate_up, chosen, self.rows(x))
        result = self.product(self.down, chosen, self.activated(both))
        weighted = self.weighted(result, weights.reshape(-1), chosen)
        return self.total(weighted.view(-1, TOP_K, HIDDEN)).to(x.dtype)

    def ids(self, ids: Tensor) -> Tensor:
        return ids.reshape(-1)

    def rows(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(TOP_K, dim=0)

    def product(self, weight: Tensor, chosen: Tensor, rows: Tensor) -> Tensor:
        return torch.bmm(weight[chosen], rows.unsqueeze(-1)).squeeze(-1)

    def activated(self, both: Tensor) -> Tensor:
        gate, up = both.chunk(2, dim=-1)
        return F.silu(gate) * up

    def weighted(self, result: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        return result * weights.unsqueeze(-1)

    def total(self, weighted: Tensor) -> Tensor:
        return weighted.sum(dim=1)


class Batched55(Batched):
    """transformers 5.0 to 5.5: rows by index, ids clamped, slots without an expert masked."""

    def experts(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        self.invalid = ids.reshape(-1) >= EXPERTS
        return super().experts(x, ids, weights)

    def ids(self, ids: Tensor) -> Tensor:
        return ids.reshape(-1).clamp(0, EXPERTS - 1)

    def rows(self, x: Tensor) -> Tensor:
        token = torch.arange(x.shape[0]).unsqueeze(1).expand(-1, TOP_K).reshape(-1)
        return x[token]

    def weighted(self, result: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        weighted = result * weights.unsqueeze(-1)
        return weighted.masked_fill_(self.invalid.unsqueeze(-1), 0.0)


class BatchedExpanded(Batched):
    """Rows by expand, up * silu(gate), the weights on the left."""

    def rows(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1).expand(-1, TOP_K, -1).reshape(-1, HIDDEN)

    def activated(self, both: Tensor) -> Tensor:
        return both[:, WIDTH:] * F.silu(both[:, :WIDTH])

    def weighted(self, result: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        return weights.reshape(-1, 1) * result


class Grouped(Batched):
    """transformers 5.20: rows sorted by expert, two grouped products."""

    def experts(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        flat = ids.reshape(-1)
        ordered, permutation = torch.sort(flat)
        ends = self.offsets(ordered)
        both = self.grouped(self.sorted_rows(x, permutation), self.gate_up, ends)
        result = self.grouped(self.activated(both), self.down, ends)
        weighted = result * self.sorted_weights(weights.reshape(-1), permutation).unsqueeze(-1)
        weighted = self.restored(weighted, permutation)
        return self.total(weighted.view(-1, TOP_K, HIDDEN)).to(x.dtype)

    def offsets(self, ordered: Tensor) -> Tensor:
        counts = torch.histc(ordered.float(), bins=EXPERTS, min=0, max=EXPERTS - 1)
        return torch.cumsum(counts, dim=0, dtype=torch.int32)

    def grouped(self, rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
        """transformers spells anything but bfloat16 with an op of its own while it is traced."""
        turned = weight.transpose(-2, -1)
        if rows.dtype == torch.bfloat16:
            return F.grouped_mm(rows, turned, offs=ends)
        from transformers.integrations import moe  # noqa: F401  (registers the op)

        call: Any = torch.ops.transformers.grouped_mm_fallback
        return call(rows, turned, ends)  # type: ignore[no-any-return]

    def sorted_rows(self, x: Tensor, permutation: Tensor) -> Tensor:
        return x[permutation // TOP_K]

    def sorted_weights(self, weights: Tensor, permutation: Tensor) -> Tensor:
        return weights[permutation]

    def restored(self, weighted: Tensor, permutation: Tensor) -> Tensor:
        inverse = torch.empty_like(permutation)
        inverse[permutation] = torch.arange(permutation.size(0))
        return weighted[inverse]


class Grouped55(Grouped):
    """transformers 5.0 to 5.5: argsort, the token of each slot by index."""

    def experts(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        flat = ids.reshape(-1)
        permutation = torch.argsort(flat)
        ends = self.offsets(flat[permutation])
        both = self.grouped(self.sorted_rows(x, permutation), self.gate_up, ends)
        result = self.grouped(self.activated(both), self.down, ends)
        weighted = result * self.sorted_weights(weights.reshape(-1), permutation).unsqueeze(-1)
        weighted = weighted[torch.argsort(permutation)]
        return self.total(weighted.view(-1, TOP_K, HIDDEN)).to(x.dtype)

    def sorted_rows(self, x: Tensor, permutation: Tensor) -> Tensor:
        token = torch.arange(x.shape[0]).unsqueeze(1).expand(-1, TOP_K).reshape(-1)
        return x[token[permutation]]


class Marked(Batched):
    """One named node, as transformers' registry of experts functions leaves it."""

    def experts(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        from glmc.ir.ops.marked import MARKED_EXPERTS

        call: Any = MARKED_EXPERTS.overload
        return call(x, ids, weights, self.gate_up, self.down)  # type: ignore[no-any-return]


SPELLINGS: tuple[type[Batched], ...] = (
    Batched,
    Batched55,
    BatchedExpanded,
    Grouped,
    Grouped55,
    Marked,
)

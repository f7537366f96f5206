"""Routed experts as people write them, after a router of the zoo."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmc.capture.legacy import StackedExperts
from tests.zoo.gate import EXPERTS, HIDDEN, TOP_K, Gate

WIDTH = 8


class Batched(nn.Module):
    """The chosen experts' matrices are gathered."""

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


class Batched512(Batched):
    """Ids beyond the last expert stand for experts on other devices."""

    def ids(self, ids: Tensor) -> Tensor:
        return ids.reshape(-1).clamp(0, EXPERTS - 1)


class Batched58(Batched):
    def ids(self, ids: Tensor) -> Tensor:
        return ids.reshape(-1).clamp_(0, EXPERTS - 1)


def _token_of_slot(x: Tensor) -> Tensor:
    return torch.arange(x.shape[0]).unsqueeze(1).expand(-1, TOP_K).reshape(-1)


class Batched55(Batched512):
    def experts(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        self.invalid = ids.reshape(-1) >= EXPERTS
        return super().experts(x, ids, weights)

    def rows(self, x: Tensor) -> Tensor:
        return x[_token_of_slot(x)]

    def weighted(self, result: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        weighted = result * weights.unsqueeze(-1)
        return weighted.masked_fill_(self.invalid.unsqueeze(-1), 0.0)


class Batched50(Batched):
    def rows(self, x: Tensor) -> Tensor:
        return x[_token_of_slot(x)]

    def weighted(self, result: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        return result * weights.reshape(-1, 1)


class Stacked457(Batched):
    """transformers 4.57 walks a list of modules; capture puts this in its place."""

    def experts(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        stacked: Any = SimpleNamespace(gate_up_proj=self.gate_up, down_proj=self.down)
        return StackedExperts.forward(stacked, x, ids, weights)


class BatchedExpanded(Batched):
    def rows(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1).expand(-1, TOP_K, -1).reshape(-1, HIDDEN)

    def activated(self, both: Tensor) -> Tensor:
        return both[:, WIDTH:] * F.silu(both[:, :WIDTH])

    def weighted(self, result: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        return weights.reshape(-1, 1) * result


class WeighedByToken(Batched):
    def experts(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        chosen = self.ids(ids)
        both = self.product(self.gate_up, chosen, self.rows(x))
        result = self.product(self.down, chosen, self.activated(both)).view(-1, TOP_K, HIDDEN)
        return (weights.unsqueeze(-1) * result).sum(-2).to(x.dtype)


class Broadcast(Batched):
    """No row is repeated and nothing is flattened: all in [tokens, top_k]."""

    def experts(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        both = (self.gate_up[ids] @ x[:, None, :, None]).squeeze(-1)
        result = (self.down[ids] @ self.activated(both).unsqueeze(-1)).squeeze(-1)
        return (result * weights.unsqueeze(-1)).sum(1).to(x.dtype)


class RowsInFront(Batched):
    def product(self, weight: Tensor, chosen: Tensor, rows: Tensor) -> Tensor:
        return torch.bmm(rows.unsqueeze(1), weight[chosen].mT).squeeze(1)


class Einsum(Batched):
    def product(self, weight: Tensor, chosen: Tensor, rows: Tensor) -> Tensor:
        return torch.einsum("soi,si->so", weight[chosen], rows)


class IndexSelect(Batched):
    def product(self, weight: Tensor, chosen: Tensor, rows: Tensor) -> Tensor:
        return (weight.index_select(0, chosen) @ rows.unsqueeze(-1)).squeeze(-1)


class Grouped(Batched):
    """Rows sorted by expert, two grouped products."""

    def experts(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        flat = ids.reshape(-1)
        ordered, permutation = self.ordered(flat)
        ends = self.offsets(ordered)
        self.beyond = self.bounded(ordered)
        rows = self.masked(self.sorted_rows(x, permutation))
        both = self.grouped(rows, self.gate_up, ends)
        result = self.grouped(self.activated(both), self.down, ends)
        sorted_weights = self.sorted_weights(weights.reshape(-1), permutation)
        weighted = self.weighed(result, sorted_weights.unsqueeze(-1))
        weighted = self.restored(weighted, permutation)
        return self.total(weighted.view(-1, TOP_K, HIDDEN)).to(x.dtype)

    def ordered(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        ordered, permutation = torch.sort(flat)
        return ordered, permutation

    def offsets(self, ordered: Tensor) -> Tensor:
        counts = torch.histc(ordered.float(), bins=EXPERTS, min=0, max=EXPERTS - 1)
        return torch.cumsum(counts, dim=0, dtype=torch.int32)

    def bounded(self, ordered: Tensor) -> Tensor | None:
        """Which slots have no expert here; None: all have one."""
        return None

    def masked(self, rows: Tensor) -> Tensor:
        return rows if self.beyond is None else rows.masked_fill_(self.beyond, 0.0)

    def weighed(self, result: Tensor, weights: Tensor) -> Tensor:
        return self.masked(result * weights)

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


class Grouped58(Grouped):
    """Ids beyond the last expert stand for experts on other devices: rows masked twice."""

    def bounded(self, ordered: Tensor) -> Tensor | None:
        beyond = (ordered >= EXPERTS).unsqueeze(-1)
        ordered.clamp_(max=EXPERTS - 1)
        return beyond


class Grouped517(Grouped58):
    """The results of both products are masked, the second before its weights."""

    def grouped(self, rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
        assert self.beyond is not None
        return super().grouped(rows, weight, ends).masked_fill(self.beyond, 0.0)

    def weighed(self, result: Tensor, weights: Tensor) -> Tensor:
        return result * weights


class Grouped55(Grouped):
    def ordered(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        permutation = torch.argsort(flat)
        return flat[permutation], permutation

    def sorted_rows(self, x: Tensor, permutation: Tensor) -> Tensor:
        return x[_token_of_slot(x)[permutation]]


class Grouped50(Grouped55):
    def sorted_rows(self, x: Tensor, permutation: Tensor) -> Tensor:
        return x[_token_of_slot(x)][permutation]

    def restored(self, weighted: Tensor, permutation: Tensor) -> Tensor:
        return weighted[torch.argsort(permutation)]


class Marked(Batched):
    """One named node, as transformers' registry of experts functions leaves it."""

    def experts(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        from glmc.ir.ops.marked import MARKED_EXPERTS

        call: Any = MARKED_EXPERTS.overload
        return call(x, ids, weights, self.gate_up, self.down)  # type: ignore[no-any-return]


# spelling -> where it comes from
SPELLINGS: dict[type[Batched], str] = {
    Batched: "transformers 5.23: batched_mm",
    Batched512: "transformers 5.12: batched_mm, ids clamped",
    Batched58: "transformers 5.8: batched_mm, ids clamped in place",
    Batched55: "transformers 5.5: batched_mm, rows by index, slots without an expert masked",
    Batched50: "transformers 5.0: batched_mm, rows by index",
    Stacked457: "transformers 4.57: the loop over experts, as capture stacks it",
    Grouped: "transformers 5.23: grouped_mm",
    Grouped58: "transformers 5.8 to 5.12: grouped_mm, slots without an expert masked",
    Grouped517: "transformers 5.17: grouped_mm, the results of both products masked",
    Grouped55: "transformers 5.5: grouped_mm by argsort",
    Grouped50: "transformers 5.0: grouped_mm by argsort, sorted back by another",
    Marked: "a function in transformers' registry of experts functions",
    BatchedExpanded: "user rewrite: rows by expand, operands the other way round",
    WeighedByToken: "user rewrite: weighed in [tokens, top_k]",
    Broadcast: "user rewrite: matrices of [tokens, top_k], rows broadcast",
    RowsInFront: "user rewrite: rows before transposed matrices",
    Einsum: "user rewrite: einsum",
    IndexSelect: "user rewrite: index_select and matmul",
}

"""Experts that look right and are not: each must be refused, with the reason beside it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.experts import WIDTH, Batched, Grouped, Grouped517, Marked
from tests.zoo.gate import EXPERTS, HIDDEN, TOP_K, Gate


class WeighsInputs(Batched):
    def experts(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        chosen = self.ids(ids)
        rows = self.rows(x) * weights.reshape(-1, 1)
        both = self.product(self.gate_up, chosen, rows)
        result = self.product(self.down, chosen, self.activated(both))
        return self.total(result.view(-1, TOP_K, HIDDEN))


class WeighsActivated(Batched):
    """Equal on paper; the rounding is another one."""

    def experts(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        chosen = self.ids(ids)
        both = self.product(self.gate_up, chosen, self.rows(x))
        activated = self.activated(both) * weights.reshape(-1, 1)
        return self.total(self.product(self.down, chosen, activated).view(-1, TOP_K, HIDDEN))


class LowPrecisionWeights(Batched):
    def weighted(self, result: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        return result * weights.to(result.dtype).unsqueeze(-1)


class Gelu(Batched):
    def activated(self, both: Tensor) -> Tensor:
        gate, up = both.chunk(2, dim=-1)
        return F.gelu(gate) * up


class SecondHalf(Batched):
    def activated(self, both: Tensor) -> Tensor:
        up, gate = both.chunk(2, dim=-1)
        return F.silu(gate) * up


class InterleavedHalves(Batched):
    def activated(self, both: Tensor) -> Tensor:
        return F.silu(both[:, 0::2]) * both[:, 1::2]


class OtherIds(Batched):
    """The second product takes the experts of another choice."""

    def experts(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        both = self.product(self.gate_up, self.ids(ids), self.rows(x))
        result = self.product(self.down, self.ids(ids.flip(-1)), self.activated(both))
        weighted = self.weighted(result, weights.reshape(-1), ids)
        return self.total(weighted.view(-1, TOP_K, HIDDEN))


class MoreDown(Batched):
    """One matrix too many: the two stacks are not of the same experts."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(dtype)
        self.down = nn.Parameter(torch.randn(EXPERTS + 1, HIDDEN, WIDTH))


class TwoGates(Batched):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(dtype)
        self.second = Gate(1, 1, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.experts(x, self.gate(x)[1], self.second(x)[0])


class Biased(Batched):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(dtype)
        self.bias = nn.Parameter(torch.randn(EXPERTS, HIDDEN))

    def weighted(self, result: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        return (result + self.bias[chosen]) * weights.unsqueeze(-1)


class ClampsReal(Batched):
    """The clamp reaches an expert that the gate can choose."""

    def ids(self, ids: Tensor) -> Tensor:
        return ids.reshape(-1).clamp(0, EXPERTS - 2)


class SumsTokens(Batched):
    """The rows are laid out by choice; the sum runs over the wrong axis of the view."""

    def total(self, weighted: Tensor) -> Tensor:
        return weighted.sum(dim=2)


class RepeatsByChoice(Batched):
    def rows(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0).expand(TOP_K, -1, -1).reshape(-1, HIDDEN)


class Exponential(Batched):
    """Something else than a cast stands after the sum."""

    def experts(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        chosen = self.ids(ids)
        both = self.product(self.gate_up, chosen, self.rows(x))
        result = self.product(self.down, chosen, self.activated(both))
        weighted = self.weighted(result, weights.reshape(-1), chosen)
        return self.total(weighted.view(-1, TOP_K, HIDDEN)).exp().to(x.dtype)


class NotRestored(Grouped):
    def restored(self, weighted: Tensor, permutation: Tensor) -> Tensor:
        return weighted


class RestoredByItself(Grouped):
    def restored(self, weighted: Tensor, permutation: Tensor) -> Tensor:
        return weighted[permutation]


class UnsortedWeights(Grouped):
    def sorted_weights(self, weights: Tensor, permutation: Tensor) -> Tensor:
        return weights


class ShortCount(Grouped):
    """histc over one value too many shifts every boundary."""

    def offsets(self, ordered: Tensor) -> Tensor:
        counts = torch.histc(ordered.float(), bins=EXPERTS, min=0, max=EXPERTS)
        return torch.cumsum(counts, dim=0, dtype=torch.int32)


class OtherRows(Grouped):
    def sorted_rows(self, x: Tensor, permutation: Tensor) -> Tensor:
        return x[permutation // (TOP_K + 1)]


class MasksReal(Grouped517):
    """The last expert's results are masked as well, before their weights and only there."""

    def weighed(self, result: Tensor, weights: Tensor) -> Tensor:
        return result.masked_fill(self.real, 0.0) * weights

    def bounded(self, ordered: Tensor) -> Tensor | None:
        self.real = (ordered >= EXPERTS - 1).unsqueeze(-1)
        return super().bounded(ordered)


class MarkedLowPrecision(Marked):
    def experts(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        return super().experts(x, ids, weights.bfloat16())


_GATE = "experts and routing weights must be the two results of one moe_gate"

TWISTS: dict[type[Batched], str] = {
    WeighsInputs: "the routing weights must multiply the results of the experts",
    WeighsActivated: "the routing weights must multiply the results of the experts",
    LowPrecisionWeights: "the routing weights must multiply in float32",
    Gelu: "expected an operand that is aten.silu",
    SecondHalf: "silu must be applied to the first half",
    InterleavedHalves: "gate and up must be the first and the second half",
    OtherIds: "both products must be of the same chosen experts",
    MoreDown: "down of 8 experts must be [8, 16, 8]",
    TwoGates: _GATE,
    Biased: "the experts' results must be weighed as they are",
    ClampsReal: "only ids beyond the last expert may be masked",
    MasksReal: "only ids beyond the last expert may be masked",
    SumsTokens: "the sum must be over the experts of a token",
    RepeatsByChoice: "each token's row must be repeated in place",
    Exponential: "expected aten._to_copy or aten.to or aten.type_as but found aten.exp",
    NotRestored: "the experts' results must be put back into the order of the tokens",
    RestoredByItself: "the experts' results must be put back into the order of the tokens",
    UnsortedWeights: "the routing weights must be sorted like the rows",
    ShortCount: "histc must count 8 experts",
    OtherRows: "the rows must be sorted like the chosen experts",
    MarkedLowPrecision: "the results of the gate must not be cast",
}
IN_BFLOAT16 = (LowPrecisionWeights, Exponential)

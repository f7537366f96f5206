"""shared_expert: both shapes of the addition, refusals, and bitwise equal results."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from glmc.passes import gate_up_merge, moe_ffn, moe_gate, shared_expert
from tests.support.traced import Traced, conditions, trace
from tests.zoo.experts import WIDTH, Batched
from tests.zoo.gate import HIDDEN

torch.set_num_threads(1)


class Block(nn.Module):
    """As in transformers: routed experts on [tokens, hidden], shared on [batch, tokens, hidden]."""

    bias = False

    def __init__(self) -> None:
        super().__init__()
        self.routed = Batched()
        self.gate_proj = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.up_proj = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.down_proj = nn.Linear(WIDTH, HIDDEN, bias=self.bias)

    def forward(self, x: Tensor) -> Tensor:
        routed = self.routed(x.view(-1, HIDDEN)).view(x.shape)
        return self.added(routed, self.shared(x))

    def shared(self, x: Tensor) -> Tensor:
        gate = nn.functional.silu(self.gate_proj(x))
        return self.down_proj(gate * self.up_proj(x))  # type: ignore[no-any-return]

    def added(self, routed: Tensor, shared: Tensor) -> Tensor:
        return routed + shared


class SharedFirst(Block):
    def added(self, routed: Tensor, shared: Tensor) -> Tensor:
        return shared + routed


class Flat(Block):
    """Everything on [tokens, hidden], reshaped at the end."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.view(-1, HIDDEN)
        return self.added(self.routed(rows), self.shared(rows)).view(x.shape)


class FlatSum(Block):
    """The shared expert sees [batch, tokens, hidden]; the sum is of [tokens, hidden]."""

    def forward(self, x: Tensor) -> Tensor:
        return self.added(self.routed(x.view(-1, HIDDEN)), self.shared(x).view(-1, HIDDEN))


class FlatShared(Block):
    """The shared expert sees [tokens, hidden]; the sum is of [batch, tokens, hidden]."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.view(-1, HIDDEN)
        return self.added(self.routed(rows).view(x.shape), self.shared(rows).view(x.shape))


class DownBias(Block):
    bias = True


class ScaledShared(Block):
    def added(self, routed: Tensor, shared: Tensor) -> Tensor:
        return routed + shared * 0.5


class Alpha(Block):
    def added(self, routed: Tensor, shared: Tensor) -> Tensor:
        return torch.add(routed, shared, alpha=2)


class OtherInput(Block):
    def forward(self, x: Tensor) -> Tensor:
        routed = self.routed(x.view(-1, HIDDEN)).view(x.shape)
        return self.added(routed, self.shared(x + 1))


class ReadElsewhere(Block):
    def added(self, routed: Tensor, shared: Tensor) -> Tensor:
        return (routed + shared) * shared


class NoActivation(Block):
    def shared(self, x: Tensor) -> Tensor:
        return self.down_proj(self.gate_proj(x))  # type: ignore[no-any-return]


class CastRouted(Block):
    def added(self, routed: Tensor, shared: Tensor) -> Tensor:
        return routed.bfloat16() + shared


def traced(kind: type[Block], dtype: torch.dtype = torch.float32) -> Traced:
    torch.manual_seed(0)
    block = kind().to(dtype)
    block.routed.gate.bias = nn.Buffer(block.routed.gate.bias.float())
    program = trace(block, torch.randn(2, 5, HIDDEN).to(dtype))
    program.apply(moe_gate.PASS, moe_ffn.PASS, gate_up_merge.PASS)
    assert len(program.nodes("glmc.moe_ffn")) == 1
    return program


# The stock classes' own spelling in both dtypes; the others differ in views and in an order.
KINDS = {
    Block: (torch.float32, torch.bfloat16),
    SharedFirst: (torch.bfloat16,),
    Flat: (torch.float32,),
    FlatSum: (torch.bfloat16,),
    FlatShared: (torch.float32,),
}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        pytest.param(
            *(kind, dtype),
            id=f"{kind.__name__}-{dtype}",
            marks=() if dtype in quick else pytest.mark.slow,
        )
        for kind, quick in KINDS.items()
        for dtype in (torch.float32, torch.bfloat16)
    ],
)
def test_fires(kind: type[Block], dtype: torch.dtype) -> None:
    program = traced(kind, dtype)
    inputs = [torch.randn(batch, tokens, HIDDEN).to(dtype) for batch, tokens in ((1, 1), (3, 17))]
    before = [program(x)[0] for x in inputs]
    result = program.apply(shared_expert.PASS)
    assert (len(result.matches), conditions(result)) == (1, [])
    (node,) = program.nodes("glmc.shared_expert")
    assert node.args[1].meta["weight"] == "gate_up_proj.weight"  # type: ignore[union-attr]
    assert node.args[2].meta["weight"] == "down_proj.weight"  # type: ignore[union-attr]
    assert not program.nodes("aten.add", "glmc.linear", "glmc.swiglu")
    for x, old in zip(inputs, before, strict=True):
        assert torch.equal(program(x)[0], old)
    text = program.text()
    again = program.apply(shared_expert.PASS)
    assert (again.matches, again.near_misses, program.text()) == ([], [], text)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (DownBias, "the shared expert must have no bias"),
        (ScaledShared, "neither the routed nor the shared experts may be scaled"),
        (Alpha, "the addition must be unscaled"),
        (OtherInput, "the shared expert must read the value that the router saw"),
        (ReadElsewhere, "the shared expert must be read here only"),
        (NoActivation, "expected glmc.swiglu but found glmc.linear"),
        (CastRouted, "the routed experts must not be cast"),
    ],
)
def test_refuses(kind: type[Block], reason: str) -> None:
    program = traced(kind)
    text = program.text()
    result = program.apply(shared_expert.PASS)
    assert not result.matches
    (found,) = conditions(result)
    assert reason in found
    assert program.text() == text


def test_a_residual_addition_is_not_worth_telling() -> None:
    class Residual(Block):
        def forward(self, x: Tensor) -> Tensor:
            return x + self.routed(x.view(-1, HIDDEN)).view(x.shape)

    result = traced(Residual).apply(shared_expert.PASS)
    assert (result.matches, result.near_misses) == ([], [])

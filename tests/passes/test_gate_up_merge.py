"""gate_up_merge: two projections or one, biases, order of the halves, the merged weight."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmc.ir.recipe import Concatenate, Source
from glmc.passes import gate_up_merge
from tests.support.traced import Traced, conditions, trace

torch.set_num_threads(1)
HIDDEN, WIDTH = 16, 12
ROUNDOFF = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


class Mlp(nn.Module):
    """silu(gate) * up; ``biases`` says which projections have one."""

    def __init__(self, biases: str = "", widths: tuple[int, int] = (WIDTH, WIDTH)) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(HIDDEN, widths[0], bias="gate" in biases)
        self.up_proj = nn.Linear(HIDDEN, widths[1], bias="up" in biases)
        self.down_proj = nn.Linear(WIDTH, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activated(x))  # type: ignore[no-any-return]

    def activated(self, x: Tensor) -> Tensor:
        return F.silu(self.gate_proj(x)) * self.up_proj(x)


class UpFirst(Mlp):
    def activated(self, x: Tensor) -> Tensor:
        return self.up_proj(x) * F.silu(self.gate_proj(x))


class Fused(nn.Module):
    """glm and glm4: one projection, up * silu(gate)."""

    def __init__(self, biases: str = "") -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(HIDDEN, 2 * WIDTH, bias=bool(biases))

    def forward(self, x: Tensor) -> Tensor:
        return self.combined(*self.gate_up_proj(x).chunk(2, dim=-1))

    def combined(self, first: Tensor, second: Tensor) -> Tensor:
        return second * F.silu(first)


class FusedInverted(Fused):
    def combined(self, first: Tensor, second: Tensor) -> Tensor:
        return first * F.silu(second)


class FusedThirds(nn.Module):
    """A third part of the linear goes elsewhere: no halves."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(HIDDEN, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        gate, up, rest = self.projection(x).split(WIDTH, -1)
        return F.silu(gate) * up + rest


class OtherInput(Mlp):
    def activated(self, x: Tensor) -> Tensor:
        return F.silu(self.gate_proj(x)) * self.up_proj(x + 1)


class ReadElsewhere(Mlp):
    def activated(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        return F.silu(gate) * self.up_proj(x) + gate


class UpReadElsewhere(Mlp):
    def activated(self, x: Tensor) -> Tensor:
        up = self.up_proj(x)
        return F.silu(self.gate_proj(x)) * up + up


class SiluReadElsewhere(Mlp):
    def activated(self, x: Tensor) -> Tensor:
        gate = F.silu(self.gate_proj(x))
        return gate * self.up_proj(x) + gate


class NoSecond(Mlp):
    def activated(self, x: Tensor) -> Tensor:
        return F.silu(self.gate_proj(x)) * x[..., :WIDTH]


def traced(module: nn.Module, dtype: torch.dtype = torch.float32) -> Traced:
    torch.manual_seed(0)
    return trace(module.to(dtype), torch.randn(2, 5, HIDDEN).to(dtype))


def largest(module: Mlp, x: Tensor) -> float:
    """A bound on what another order of the two dot products can change: each is off by HIDDEN *
    u times its terms' magnitudes, in both programs, and one more rounding each for silu and *."""
    rows = x.double().abs()
    gate, up = (
        rows @ each.weight.double().abs().t()
        + (0 if each.bias is None else each.bias.double().abs())
        for each in (module.gate_proj, module.up_proj)
    )
    product = (gate * up) @ module.down_proj.weight.double().abs().t()
    return float((2 * (2.2 * HIDDEN + WIDTH + 4) * ROUNDOFF[x.dtype] * product).max())


@pytest.mark.parametrize("dtype", ROUNDOFF, ids=str)
@pytest.mark.parametrize("biases", ["", "gate up"])
@pytest.mark.parametrize("kind", [Mlp, UpFirst])
def test_two_linears(kind: type[Mlp], biases: str, dtype: torch.dtype) -> None:
    program = traced(kind(biases), dtype)
    inputs = [torch.randn(1, 1, HIDDEN).to(dtype), torch.randn(3, 40, HIDDEN).to(dtype)]
    before = [program(x)[0] for x in inputs]
    result = program.apply(gate_up_merge.PASS)
    assert (len(result.matches), conditions(result)) == (1, [])
    (swiglu,) = program.nodes("glmc.swiglu")
    (linear,) = swiglu.all_input_nodes
    assert linear.args[1].meta["weight"] == "gate_up_proj.weight"  # type: ignore[union-attr]
    assert (linear.args[2] is not None) == bool(biases)
    assert len(program.nodes("glmc.linear")) == 2
    for x, old in zip(inputs, before, strict=True):
        assert (program(x)[0].double() - old.double()).abs().max() <= largest(program.module, x)  # type: ignore[arg-type]
    text = program.text()
    again = program.apply(gate_up_merge.PASS)
    assert (again.matches, again.near_misses, program.text()) == ([], [], text)


def test_the_merged_weight() -> None:
    program = traced(Mlp("gate up"))
    program.apply(gate_up_merge.PASS)
    weights = program.program.weights
    assert set(weights) == {"gate_up_proj.weight", "gate_up_proj.bias", "down_proj.weight"}
    assert weights["gate_up_proj.weight"].shape == (2 * WIDTH, HIDDEN)
    assert weights["gate_up_proj.bias"].shape == (2 * WIDTH,)
    assert weights["gate_up_proj.weight"].recipe == Concatenate(
        (
            Source("gate_proj.weight", (WIDTH, HIDDEN)),
            Source("up_proj.weight", (WIDTH, HIDDEN)),
        )
    )


def test_names() -> None:
    name = gate_up_merge.merged_name("model.layers.1.mlp.shared_experts.gate_proj.weight")
    assert name == "model.layers.1.mlp.shared_experts.gate_up_proj.weight"


@pytest.mark.parametrize("dtype", ROUNDOFF, ids=str)
@pytest.mark.parametrize("biases", ["", "both"])
def test_one_linear_is_bitwise(biases: str, dtype: torch.dtype) -> None:
    program = traced(Fused(biases), dtype)
    x = torch.randn(3, 7, HIDDEN).to(dtype)
    before = program(x)[0]
    result = program.apply(gate_up_merge.PASS)
    assert (len(result.matches), conditions(result)) == (1, [])
    assert len(program.nodes("glmc.swiglu")) == 1
    assert not program.nodes("aten.slice", "aten.silu")
    assert torch.equal(program(x)[0], before)
    assert program.apply(gate_up_merge.PASS).matches == []


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (FusedInverted(), "silu must be applied to the first half"),
        (FusedThirds(), "gate and up must be the first and the second half"),
        (OtherInput(), "gate and up must read the same value"),
        (ReadElsewhere(), "the gate projection must be read by silu only"),
        (UpReadElsewhere(), "the up projection must be read by the product only"),
        (SiluReadElsewhere(), "expected one user but found 2"),
        (NoSecond(), "expected glmc.linear but found aten.slice"),
        (Mlp("gate"), "gate and up must both have a bias or both none"),
        (Mlp("up"), "gate and up must both have a bias or both none"),
        (Mlp(widths=(WIDTH, 1)), "a weight of the same shape and dtype"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_refuses(module: nn.Module, reason: str) -> None:
    program = traced(module)
    text = program.text()
    result = program.apply(gate_up_merge.PASS)
    assert not result.matches
    assert any(reason in found for found in conditions(result)), conditions(result)
    assert program.text() == text


def test_silu_of_something_else_is_not_worth_telling() -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.silu(x) * x

    result = traced(Plain()).apply(gate_up_merge.PASS)
    assert (result.matches, result.near_misses) == ([], [])

"""silu_mul: fires on a model and on what gate_up_merge refuses, leaves twists alone, bitwise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from glmc.passes import canonical, clean, gate_up_merge, silu_mul
from tests.support.models import captured, example_inputs, tiny_config, tiny_model, weights_of
from tests.support.traced import conditions, trace


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 16, bias=True)
        self.up = nn.Linear(8, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.up(x) * silu(self.gate(x))


class Observed(Mlp):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        activated = silu(self.gate(x))
        return activated * self.up(x), activated


class Squared(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        activated = silu(self.gate(x))
        return activated * activated


class Broadcast(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        return silu(self.gate(x)) * self.up(x).sum(-1, keepdim=True)


class Mixed(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        return silu(self.gate(x)) * self.up(x).bfloat16()


TWISTS = {
    Observed: "the activated value is also read elsewhere",
    Squared: "the other factor must be another value",
    Broadcast: "the product must not broadcast",
    Mixed: "both factors must have the same dtype",
}


def test_takes_what_gate_up_merge_refuses() -> None:
    traced = trace(Mlp(), torch.randn(2, 3, 8))
    assert conditions(traced.apply(gate_up_merge.PASS))
    x = torch.randn(4, 5, 8)
    (before,) = traced(x)
    assert len(traced.apply(silu_mul.PASS).matches) == 1
    assert not traced.nodes("aten.silu", "aten.mul")
    assert torch.equal(traced(x)[0], before)
    text = traced.text()
    assert not traced.apply(silu_mul.PASS).matches
    assert traced.text() == text


@pytest.mark.parametrize("twist", TWISTS, ids=lambda twist: twist.__name__)
def test_refuses(twist: type[Mlp]) -> None:
    traced = trace(twist(), torch.randn(2, 3, 8))
    text = traced.text()
    result = traced.apply(silu_mul.PASS)
    assert (len(result.matches), conditions(result)) == (0, [TWISTS[twist]])
    assert traced.text() == text


def test_an_activation_alone_is_not_worth_telling() -> None:
    result = trace(nn.SiLU(), torch.randn(2, 3, 8)).apply(silu_mul.PASS)
    assert (result.matches, result.near_misses) == ([], [])


def test_fires_in_every_mlp_of_a_captured_model() -> None:
    config = tiny_config("glm4_moe")
    program, model, inputs = captured(config), tiny_model(config), example_inputs()
    for each in (canonical.PASS, clean.PASS):
        each.run(program)
    (before,) = program.run(inputs, weights_of(program, model))
    result = silu_mul.PASS.run(program)
    assert [(match.layer, match.module) for match in result.matches] == [
        (0, "model.layers.0.mlp.act_fn"),
        (1, "model.layers.1.mlp.shared_experts.act_fn"),
        (2, "model.layers.2.mlp.shared_experts.act_fn"),
    ]
    assert result.near_misses == []
    (after,) = program.run(inputs, weights_of(program, model))
    assert torch.equal(after, before)

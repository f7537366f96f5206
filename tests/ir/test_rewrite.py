"""The rewriter: weights of one name that differ stay apart; nothing is replaced unchecked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from glmc.ir.rewrite import Rewriter
from glmc.passes import gate_up_merge
from glmc.weights.evaluate import evaluate
from glmc_runtime.errors import ExtensionError
from tests.support.traced import trace


class TiedGates(nn.Module):
    """Two MLPs that share the gate and differ in the other projection."""

    def __init__(self) -> None:
        super().__init__()
        gate = nn.Linear(8, 16, bias=False)
        self.mlps = nn.ModuleList(
            nn.ModuleDict({"gate_proj": gate, "up_proj": nn.Linear(8, 16, bias=False)})
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = [
            silu(mlp["gate_proj"](x)) * mlp["up_proj"](x)  # type: ignore[index]
            for mlp in self.mlps
        ]
        return outputs[0] - outputs[1]


def test_merged_weights_of_a_tied_projection_are_not_taken_for_each_other() -> None:
    traced = trace(TiedGates(), torch.randn(2, 3, 8))
    held = dict(traced.module.named_parameters(remove_duplicate=False))
    x = torch.randn(2, 3, 8)

    def run() -> Tensor:
        weights = {
            name: evaluate(weight, lambda key: held[key].detach())
            for name, weight in traced.program.weights.items()
        }
        inputs = {node.meta["input"]: x for node in traced.program.inputs()}
        return traced.program.run(inputs, weights)[0]

    before = run()
    assert len(traced.apply(gate_up_merge.PASS).matches) == 2
    assert len({node.args[1] for node in traced.nodes("glmc.linear")}) == 2
    torch.testing.assert_close(run(), before)


def test_a_pass_that_replaces_without_an_attempt_is_refused() -> None:
    traced = trace(TiedGates(), torch.randn(2, 3, 8))
    text, activated = traced.text(), traced.nodes("aten.silu")[0]
    with pytest.raises(ExtensionError, match="without having it checked"):
        Rewriter(traced.program, "alone").replace(activated, activated.all_input_nodes[0])
    assert traced.text() == text

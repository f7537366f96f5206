"""What no kernel takes is found out while compiling: the node is left to ATen, and said so."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glmc.dynamo import explain
from glmc.ir.match import NoMatchError
from glmc.ir.ops.masked_attention import MASKED_ATTENTION
from glmc.ir.rewrite import Rewriter
from glmc_runtime import kernels
from glmc_runtime.errors import PlanError
from tests.dynamo.compiled import fusions, watched
from tests.support.traced import trace


def random(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Gated(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.up = (torch.nn.Linear(32, width, bias=False) for _ in range(2))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.gate(x)) * self.up(x)  # type: ignore[no-any-return]


def test_a_limit_of_the_vendor_is_a_near_miss() -> None:
    """Rows of its swiglu are a multiple of 16 bytes."""
    model, x = Gated(10), random(3, 32)
    with watched() as graphs, torch.no_grad():
        found = torch.compile(model, backend="kunlun", options={"target": "xpu"})(x)
    torch.testing.assert_close(found, model(x))
    (miss,) = graphs[0].plan.left
    assert "aligned rows" in miss.condition and miss.pass_name == "gate_up_merge"
    assert fusions(graphs[0])["gate_up_merge"] == 1


def test_what_a_kernel_refuses_to_be_bound_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(arguments: dict[str, Any]) -> NoReturn:
        raise PlanError("this kernel takes nothing today")

    model, x = Gated(32), random(3, 32)
    kernels.find_binder("cpu.swiglu")  # loaded, so that it can be replaced
    monkeypatch.setitem(kernels._BINDERS, "cpu.swiglu", refuse)
    explained = explain(model, x)
    assert "cpu: this kernel takes nothing today" in str(explained)
    assert explained.graphs[0].plain == {"glmc.swiglu": 1}


class Sum(torch.nn.Module):
    def forward(self, q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
        return q.sum() + k.sum() + mask.sum()


@pytest.mark.parametrize("mask", [torch.zeros(2, 3), torch.zeros(2, 3).long(), torch.zeros(2, 4)])
def test_operands_that_an_op_does_not_take_are_no_match(mask: Tensor) -> None:
    """Asked of the reference of the op; nothing but the mask may be wrong."""
    heads, keys = random(1, 2, 2, 8), random(1, 2, 3, 8)
    program = trace(Sum(), heads, keys, mask).program
    program.phase = "traced"
    last = program.graph.find_nodes(op="output")[0].prev
    q, k, added = program.inputs()
    rewriter, arguments = Rewriter(program, "test"), (q, k, k, added, 1.0, False, True)
    if mask.shape == (2, 3) and mask.dtype == torch.float32:
        made = rewriter.call(MASKED_ATTENTION.overload, arguments, replaces=(last,))
        with pytest.raises(NoMatchError, match="what replaces it must be"):
            rewriter.replace(added, made)
        return
    with pytest.raises(NoMatchError, match="masked_attention must take its operands"):
        rewriter.call(MASKED_ATTENTION.overload, arguments, replaces=(last,))


def test_memory_that_is_read_by_strides() -> None:
    """``y`` has the layout of ``x`` in eager code, and is contiguous in a plan."""

    def function(x: Tensor) -> Tensor:
        y = x.t() + 1
        return torch.as_strided(y, (5,), (1,), 0) * 2

    torch._dynamo.reset()
    with pytest.warns(UserWarning, match="as_strided reads memory by strides"):
        found = torch.compile(function, backend="kunlun")(random(4, 6))
    assert torch.equal(found, function(random(4, 6)))


def test_an_op_that_a_target_has_no_rule_for_is_named() -> None:
    torch._dynamo.reset()
    query, keys = torch.randn(1, 2, 3, 64), torch.randn(1, 2, 5, 64)
    attend = torch.nn.functional.scaled_dot_product_attention
    with watched() as graphs:
        compiled = torch.compile(attend, backend="kunlun", options={"target": "xpu"})
        torch.testing.assert_close(compiled(query, keys, keys), attend(query, keys, keys))
    (miss,) = graphs[0].plan.left
    assert "xpu has no rule for masked_attention" in miss.condition

"""Ops between modules: their names, and what computes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmc.check.align.module_hooks import ModuleHooks
from glmc.check.align.op_mode import OpMode, op_name
from glmc.check.align.reference import record_model
from glmc_runtime.record.options import OP, RecordOptions
from tests.check.align.conftest import ListSink


def seen(function: Any, *inputs: Tensor) -> list[tuple[str, dict[str, Tensor]]]:
    calls: list[tuple[str, dict[str, Tensor]]] = []
    with OpMode(lambda name, tensors: calls.append((name, dict(tensors)))):
        function(*inputs)
    return calls


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x + 1, "add"),
        (lambda x: 1 + x, "add"),
        (lambda x: x / 2, "div"),
        (lambda x: 1 - x, "rsub"),
        (lambda x: -x, "neg"),
        (lambda x: x @ x, "matmul"),
        (lambda x: x[[0, 1]], "getitem"),
        (lambda x: x > 0, "gt"),
        (lambda x: x.float().to(torch.float64), "to"),
        (lambda x: F.silu(x), "silu"),
        (lambda x: F.softmax(x, -1, dtype=torch.float64), "softmax"),
        (lambda x: F.linear(x, x), "linear"),
        (lambda x: x.t().contiguous(), "contiguous"),
        (lambda x: x.clone().mul_(2), "mul_"),
    ],
)
def test_an_op_has_the_name_that_it_has_in_aten(function: Any, name: str) -> None:
    *_, (found, outputs) = seen(function, torch.eye(2))
    assert (found, list(outputs)) == (name, ["0"])


def test_an_operator_in_place_writes() -> None:
    def function(x: Tensor) -> None:
        x /= 2

    ((name, outputs),) = seen(function, torch.ones(2))
    assert name == "div_" and outputs["0"].tolist() == [0.5, 0.5]


def test_several_results_have_their_places() -> None:
    ((name, outputs),) = seen(lambda x: x.topk(2), torch.tensor([1.0, 3.0, 2.0]))
    assert name == "topk" and list(outputs) == ["0", "1"]
    assert outputs["1"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.view(4),
        lambda x: x.t(),
        lambda x: x[:, :1],
        lambda x: x.chunk(2),
        lambda x: x.contiguous(),
        lambda x: x.to(torch.float32),
        lambda x: F.dropout(x, 0.5, training=False),
        lambda x: x.shape,
        lambda x: x.sum().item() and None if False else x.size(0),
        lambda x: torch.empty_like(x),
        lambda x: x.new_empty(3),
    ],
)
def test_what_computes_nothing_is_not_seen(function: Any) -> None:
    assert seen(function, torch.eye(2)) == []


def test_functions_of_others_have_no_name() -> None:
    assert op_name(object()) == "" and op_name(lambda: None) == ""


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * 2).mul(3) * 4  # type: ignore[no-any-return]


def test_ops_are_counted_within_their_module(sink: ListSink) -> None:
    model = Scaled()
    with torch.no_grad(), ModuleHooks(model, sink, RecordOptions(((1,),), level=OP)) as hooks:
        sink.begin(0, (1,))
        hooks.begin(0)
        model(torch.ones(1, 2))
        torch.ones(3) * 5  # outside of the model
    assert sink.order == [
        "Scaled.0.forward_input.0",
        "mul.0.forward_output.0",
        "linear.Linear.0.forward_input.0",
        "linear.linear.0.forward_output.0",
        "linear.Linear.0.forward_output.0",
        "mul.1.forward_output.0",
        "mul.2.forward_output.0",
        "Scaled.0.forward_output.0",
    ]
    assert sink.facts[0, "mul.1.forward_output.0"]["op"] == "mul"


def test_a_model_is_recorded_by_op(moe_model: Any, sink: ListSink) -> None:
    """And computes the same: masks are made inside vmap, whose tensors have no memory."""
    left_out = record_model(moe_model, sink, RecordOptions(((1, 2, 3), (4, 5)), 1, level=OP))
    attention = "model.layers.0.self_attn"
    rotated = f"{attention}.cat.2.forward_output.0"
    assert sink.get(0, rotated).shape == (1, 4, 5, 16)
    assert sink.get(1, rotated).shape == (2, 4, 1, 16)
    assert f"{attention}.softmax.0.forward_output.0" in left_out
    other = ListSink()
    record_model(moe_model, other, RecordOptions(((1, 2, 3), (4, 5)), 1))
    assert set(other.tensors) <= set(sink.tensors) | set(sink.links)
    assert all(torch.equal(sink.get(*name), tensor) for name, tensor in other.tensors.items())

"""What the captured program computes for a module's tensor is what the stock model has there."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.fx import Node

from glmc.capture.boundaries import Boundaries
from glmc.capture.export import capture
from glmc.capture.legacy import StackedExperts
from glmc.capture.markers import ATTENTION, EXPERTS
from glmc.capture.model import CaptureOptions
from glmc.check.verify.execution import BoundInputs, call
from glmc.check.verify.weights import ModelWeights
from glmc.config import CompileOptions
from glmc.ir.identity import identity_of
from glmc.ir.program import Program
from glmc.job import read_job
from glmc.weights.source import WeightSource
from glmc_runtime.format.tensor_key import TensorKey
from glmc_runtime.record.module_tensors import module_tensors
from tests.support.models import MODERN, example_inputs

MODELS = Path(__file__).parents[2] / "models"
OPTIONS = {
    "folded": CaptureOptions(),
    "full": CaptureOptions(folded=False),
    "eager": CaptureOptions(attention="eager"),
    "marked": CaptureOptions(marked=True),
}


@cache
def captured(model: Path, options: CaptureOptions) -> tuple[Program, WeightSource]:
    job = read_job(model, CompileOptions(dtype="float32"))
    assert job.weights is not None
    return capture(job.source.config, job.source.shape, job.dtype, options), job.weights


def stock(model: Path, options: CaptureOptions) -> nn.Module:
    attention = ATTENTION if options.marked else options.attention
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation=attention
    )
    loaded.config._experts_implementation = EXPERTS if options.marked else options.experts
    return loaded.eval()  # type: ignore[no-any-return]


def hooked(model: nn.Module, inputs: dict[str, Tensor]) -> dict[TensorKey, Tensor]:
    """The tensors of all modules, as they were when a module took or returned them."""
    seen: dict[TensorKey, Tensor] = {}

    def keep(key: TensorKey, tensor: Tensor) -> None:
        assert key not in seen
        seen[key] = tensor.clone()

    with torch.no_grad(), module_tensors(model.named_modules(), keep):
        model(
            input_ids=inputs["token_ids"],
            position_ids=inputs["positions"],
            attention_mask=torch.ones_like(inputs["token_ids"]),
            use_cache=False,
        )
    return seen


def computed(
    program: Program, inputs: dict[str, Tensor], weights: WeightSource
) -> dict[TensorKey, Tensor]:
    values: dict[Node, Any] = dict(
        BoundInputs(program, inputs, ModelWeights(weights).table(program))
    )
    keys = {}
    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "call_function":
                values[node] = call(node, values)
                keys.update(dict.fromkeys(identity_of(node).keys, values[node]))
    return keys


@pytest.mark.skipif(not MODERN, reason="transformers 4 has experts of its own for each")
@pytest.mark.parametrize(
    ("name", "way"),
    [
        pytest.param(
            name, way, marks=() if (name, way) == ("tiny-dense", "folded") else pytest.mark.long
        )
        for name in ("tiny-moe", "tiny-dense")
        for way in OPTIONS
    ],
)
def test_each_tensor_is_bit_for_bit_that_of_the_stock_model(name: str, way: str) -> None:
    program, weights = captured(MODELS / name, OPTIONS[way])
    inputs = example_inputs()
    expected = hooked(stock(MODELS / name, OPTIONS[way]), inputs)
    actual = computed(program, inputs, weights)
    assert len(actual) > 100
    for key in actual.keys() - expected.keys():  # eager code has none where nothing is padded
        assert key.name == "attention_mask", str(key)
        del actual[key]
    for key, tensor in actual.items():
        assert tensor.dtype == expected[key].dtype, str(key)
        assert torch.equal(tensor, expected[key]), str(key)
    of_step = (*inputs.values(), torch.ones_like(inputs["token_ids"]))
    for key in expected.keys() - actual.keys():
        assert any(torch.equal(expected[key], each) for each in of_step), str(key)


@pytest.mark.long
@pytest.mark.skipif(not MODERN, reason="transformers 4 has experts of its own for each")
def test_a_caller_may_be_in_inference_mode() -> None:
    program, _ = captured(MODELS / "tiny-dense", CaptureOptions())
    with torch.inference_mode():
        other, _ = captured.__wrapped__(MODELS / "tiny-dense", CaptureOptions())
    assert [identity_of(node) for node in program.graph.nodes] == [
        identity_of(node) for node in other.graph.nodes
    ]


class Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(y.mul_(2) if y.sum() else y)  # type: ignore[no-any-return]


def test_what_is_written_afterwards_is_left_out() -> None:
    model = Owner()
    boundaries = Boundaries(model)
    with torch.no_grad(), boundaries.watched() as tensors:
        model(torch.ones(1, 2))
    keys = [str(key) for key in boundaries._keys]
    assert "first.Linear.0.forward_output.0" not in keys
    assert "second.Linear.1.forward_input.0" in keys
    assert len(tensors) == len(keys)


def test_our_own_modules_have_no_keys() -> None:
    experts = nn.ModuleList([_Expert(), _Expert()])
    model = nn.ModuleDict({"experts": StackedExperts(experts), "norm": nn.LayerNorm(4)})
    assert [path for path, _ in Boundaries(model)._modules] == ["", "norm"]


class _Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(4, 3), nn.Linear(4, 3)
        self.down_proj = nn.Linear(3, 4)

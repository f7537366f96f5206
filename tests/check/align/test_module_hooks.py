"""Tensors of modules: their names, their order, and one that is met again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from glmc.check.align.module_hooks import ModuleHooks
from glmc_runtime.record.options import RecordOptions
from tests.check.align.conftest import ListSink


def recorded(model: nn.Module, sink: ListSink, *inputs: Any, **options: Any) -> list[str]:
    """The names of one call of a model, in order."""
    with torch.no_grad(), ModuleHooks(model, sink, RecordOptions(((1,),), **options)) as hooks:
        sink.begin(0, (1,))
        hooks.begin(0)
        model(*inputs)
    return sink.order


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(4), nn.LayerNorm(4)
        self.projection = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor, *, scale: Tensor | None = None) -> tuple[Tensor, Any]:
        return self.projection(self.norm2(self.norm1(x))), (None, (x * scale,))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x, _ = block(x, scale=torch.tensor(2.0))
        return x


def test_keys_are_those_of_torch_xray(sink: ListSink) -> None:
    """In order of execution; the second norm of a block is LayerNorm.1, and so in each block."""
    names = recorded(Model(), sink, torch.ones(1, 4), parameters=True)
    first = [
        "Model.0.forward_input.0",
        "blocks.0.Block.0.forward_input.0",
        "blocks.0.Block.0.forward_input.scale",
        "blocks.0.norm1.LayerNorm.0.forward_params.weight",
        "blocks.0.norm1.LayerNorm.0.forward_params.bias",
        "blocks.0.norm1.LayerNorm.0.forward_input.0",
        "blocks.0.norm1.LayerNorm.0.forward_output.0",
        "blocks.0.norm2.LayerNorm.1.forward_params.weight",
        "blocks.0.norm2.LayerNorm.1.forward_params.bias",
        "blocks.0.norm2.LayerNorm.1.forward_input.0",
        "blocks.0.norm2.LayerNorm.1.forward_output.0",
        "blocks.0.projection.Linear.0.forward_params.weight",
        "blocks.0.projection.Linear.0.forward_input.0",
        "blocks.0.projection.Linear.0.forward_output.0",
        "blocks.0.Block.0.forward_output.0",
        "blocks.0.Block.0.forward_output.1.1.0",
        "blocks.1.Block.1.forward_input.0",
        "blocks.1.Block.1.forward_input.scale",
        "blocks.1.norm1.LayerNorm.0.forward_params.weight",
    ]
    assert names[: len(first)] == first
    assert names[-1] == "Model.0.forward_output.0"


def test_a_tensor_that_is_met_again_is_named_anew(sink: ListSink) -> None:
    recorded(Model(), sink, torch.ones(1, 4))
    taken = (0, "Model.0.forward_input.0")
    assert sink.links[0, "blocks.0.norm1.LayerNorm.0.forward_input.0"] == taken
    returned = (0, "blocks.1.projection.Linear.0.forward_output.0")
    assert sink.links[0, "blocks.1.Block.1.forward_output.0"] == returned
    assert sink.links[0, "Model.0.forward_output.0"] == returned


def test_weights_are_written_once_for_all_steps(sink: ListSink) -> None:
    model, options = Model(), RecordOptions(((1,),), parameters=True)
    with torch.no_grad(), ModuleHooks(model, sink, options, links=False) as hooks:
        for step in range(2):
            sink.begin(step, (1,))
            hooks.begin(step)
            model(torch.ones(1, 4))
    name = "blocks.0.norm1.LayerNorm.0.forward_params.weight"
    assert sink.links[1, name] == (0, name) and torch.equal(sink.get(1, name), torch.ones(4))
    assert not any(target.endswith(("input.0", "output.0")) for _, target in sink.links.values())


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.add_(1)


def test_an_input_is_what_it_was_before_it_was_written_in_place(sink: ListSink) -> None:
    model = nn.Sequential(InPlace(), InPlace())
    recorded(model, sink, torch.zeros(2))
    values = {name: sink.get(0, name)[0].item() for name in sink.order}
    assert values == {
        "Sequential.0.forward_input.0": 0,
        "0.InPlace.0.forward_input.0": 0,
        "0.InPlace.0.forward_output.0": 1,
        "1.InPlace.1.forward_input.0": 1,
        "1.InPlace.1.forward_output.0": 2,
        "Sequential.0.forward_output.0": 2,
    }


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x))  # type: ignore[no-any-return]


def test_a_module_of_a_parent_that_runs_twice_has_two_names(sink: ListSink) -> None:
    names = recorded(Twice(), sink, torch.ones(1, 2))
    outputs = [name for name in names if name.endswith("forward_output.0")]
    assert outputs == [
        "block.0.Linear.0.forward_output.0",
        "block.Sequential.0.forward_output.0",
        "block.0.Linear.1.forward_output.0",
        "block.Sequential.1.forward_output.0",
        "Twice.0.forward_output.0",
    ]


def test_hooks_are_gone_afterwards(sink: ListSink) -> None:
    model = Model()
    recorded(model, sink, torch.ones(1, 4))
    modules = list(model.modules())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in modules)

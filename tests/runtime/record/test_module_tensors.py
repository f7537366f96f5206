"""Which keys the tensors of a model's modules are told with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from glmc_runtime.record.module_tensors import module_tensors, tensors_in


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(2, 3), nn.Linear(3, 2)
        self.act = nn.SiLU()

    def forward(self, x: Tensor, *, table: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
        return self.down(self.act(self.up(x)) * table[1]), None


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x, _ = block(x, table=(x, torch.ones(3)))
        return x


def told(model: nn.Module, calls: int = 1) -> list[str]:
    keys: list[str] = []
    with module_tensors(model.named_modules(), lambda key, tensor: keys.append(str(key))):
        for _ in range(calls):
            model(torch.ones(1, 2))
    model(torch.ones(1, 2))  # the hooks are gone
    return keys


def test_keys_in_the_order_of_execution() -> None:
    keys = told(Model())
    assert keys[:4] == [
        "Model.0.forward_input.0",
        "blocks.0.Block.0.forward_input.0",
        "blocks.0.Block.0.forward_input.table.0",
        "blocks.0.Block.0.forward_input.table.1",
    ]
    assert keys[4:10] == [
        "blocks.0.up.Linear.0.forward_input.0",
        "blocks.0.up.Linear.0.forward_output.0",
        "blocks.0.act.SiLU.0.forward_input.0",
        "blocks.0.act.SiLU.0.forward_output.0",
        "blocks.0.down.Linear.1.forward_input.0",
        "blocks.0.down.Linear.1.forward_output.0",
    ]
    assert keys[10] == "blocks.0.Block.0.forward_output.0"
    assert keys[11] == "blocks.1.Block.1.forward_input.0"
    assert keys[-1] == "Model.0.forward_output.0"


def test_each_call_of_the_model_counts_anew() -> None:
    keys = told(Model(), calls=2)
    half = len(keys) // 2
    assert keys[:half] == keys[half:]


class Experts(nn.Module):
    """As transformers 4 has them: a list of which a call takes some, and one for all."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
        self.shared = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.experts[2](self.experts[1](x)))  # type: ignore[no-any-return]


def test_modules_of_another_parent_are_counted_apart() -> None:
    returned = [key for key in told(Experts()) if "forward_output" in key]
    assert returned[:3] == [
        "experts.1.Linear.0.forward_output.0",
        "experts.2.Linear.1.forward_output.0",
        "shared.Linear.0.forward_output.0",
    ]


class Output(dict[str, Any]):
    """As transformers has them: a mapping that leaves out what is None in its tuple."""

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(value for value in self.values() if value is not None)


def test_names_of_nested_tensors() -> None:
    x = torch.ones(1)
    assert dict(tensors_in(x)) == {"0": x}
    assert list(dict(tensors_in((None, x, (x, x))))) == ["1", "2.0", "2.1"]
    assert list(dict(tensors_in(Output(loss=None, logits=x)))) == ["0"]
    assert list(dict(tensors_in({"mask": None, "both": [x, {"inner": x}]}))) == [
        "both.0",
        "both.1.inner",
    ]
    assert list(tensors_in("text")) == []

"""A row passes on what the op's schema says, in the shapes and under the names that it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmc.errors import LoweringError
from glmc.lowering.direct import Direct, Scratch
from glmc.lowering.target import Emitter, Op, Value
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.plan import BufferArgument


def value(name: str, *shape: int) -> Value:
    extents = tuple(Extent(constant=size) for size in shape)
    return Value(name, extents, torch.float32, BufferArgument(0, None))


class Calls:
    """An emitter that notes what is asked of it, in order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.arguments: dict[str, Any] = {}

    def result(self, index: int = 0) -> Value:
        self.asked.append(f"result {index}")
        return value("result", 2, 3, 4)

    def input(self, name: str) -> Value:
        self.asked.append(f"input {name}")
        return value(name, 5)

    def call(self, function: str, **arguments: Any) -> None:
        self.asked.append(function)
        self.arguments = arguments


def scratch(name: str) -> Any:
    def ask(op: Op, emit: Any) -> Scratch:
        emit.asked.append(name)
        return {name: value(name, 1)}

    return ask


def run(rule: Direct, **arguments: Any) -> Calls:
    emit = Calls()
    taken: Emitter = emit  # type: ignore[assignment]
    rule(Op("rms_norm", "node", "module", 0, arguments, "decode"), taken)
    return emit


def test_names_shapes_constants_and_order() -> None:
    rule = Direct(
        "toy.norm",
        rows=("rows_of_x", "out"),
        flat=("weight",),
        names={"x": "rows_of_x"},
        inputs={"positions": "positions"},
        constants={"nothing": None},
        scratch_first=scratch("early"),
        scratch=scratch("late"),
        host=True,
    )
    emit = run(rule, x=value("x", 2, 3, 4), weight=value("weight", 2, 2), eps=1)
    assert emit.asked == ["early", "input positions", "result 0", "late", "toy.norm"]
    shapes = {
        name: [size.constant for size in item.shape]
        for name, item in emit.arguments.items()
        if isinstance(item, Value)
    }
    assert shapes == {
        "rows_of_x": [6, 4],
        "weight": [4],
        "positions": [5],
        "out": [6, 4],
        "early": [1],
        "late": [1],
    }
    assert emit.arguments["writes"] == ("out", "early", "late") and emit.arguments["host"]
    assert emit.arguments["nothing"] is None
    assert emit.arguments["eps"] == 1.0 and isinstance(emit.arguments["eps"], float)


def test_an_input_stands_for_an_operand_and_a_dropped_one_is_not_read() -> None:
    rule = Direct("toy.norm", inputs={"weight": "positions"}, dropped=("eps",))
    emit = run(rule, x=value("x", 2, 4))
    assert emit.arguments["weight"].name == "positions" and "eps" not in emit.arguments


def test_an_argument_of_another_kind_is_refused() -> None:
    with pytest.raises(LoweringError, match="rms_norm needs a tensor 'weight'"):
        run(Direct("toy.norm"), x=value("x", 2, 4), weight=None, eps=1e-5)

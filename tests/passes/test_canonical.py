"""canonical: many spellings, one graph, the same numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmc.ir import match as m
from glmc.passes import canonical
from tests.support.traced import Traced, trace

torch.set_num_threads(1)


class Function(nn.Module):
    """A function of the input and of a weight [3, 6] with a bias [3]."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(3, 6))
        self.bias = nn.Parameter(torch.randn(3))
        self.table = nn.Parameter(torch.randn(9, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self)


def traced(function: Callable[..., Tensor], x: Tensor) -> Traced:
    torch.manual_seed(0)
    return trace(Function(function), x, first=())


def names(program: Traced) -> list[str]:
    calls = [node for node in program.program.graph.nodes if node.op == "call_function"]
    return [m.op_name(node) for node in calls if isinstance(node.meta["val"], Tensor)]


CASES: dict[str, tuple[Callable[..., Tensor], list[str]]] = {
    "view": (lambda x, _: x.view(-1), ["aten.reshape"]),
    "chain of views": (lambda x, _: x.view(-1).view(-1, 2).reshape(-1, 3), ["aten.reshape"]),
    "transpose": (lambda x, _: x.transpose(-1, -2), ["aten.permute"]),
    "t": (lambda x, _: x[0].t(), ["aten.select", "aten.permute"]),
    "permute from the end": (lambda x, _: x.permute(0, -1, -2), ["aten.permute"]),
    "chunk": (lambda x, _: x.chunk(2, -1)[1], ["aten.slice"]),
    "split": (lambda x, _: x.split(4, -1)[1], ["aten.slice"]),
    "split with sizes": (lambda x, _: x.split([1, 3, 2], -1)[1], ["aten.slice"]),
    "slice from the end": (lambda x, _: x[..., -2:], ["aten.slice"]),
    "open slice with a step": (lambda x, _: x[..., 1::2], ["aten.slice"]),
    "type_as": (lambda x, _: x.bfloat16().type_as(x), ["aten._to_copy"] * 2),
    "linear": (lambda x, m: F.linear(x, m.weight), ["glmc.linear"]),
    "linear with bias": (lambda x, m: F.linear(x, m.weight, m.bias), ["glmc.linear"]),
    "matmul": (lambda x, m: x @ m.weight.t(), ["glmc.linear"]),
    "mm": (lambda x, m: torch.mm(x[0], m.weight.t()), ["aten.select", "glmc.linear"]),
    "addmm": (
        lambda x, m: torch.addmm(m.bias, x[0], m.weight.t()),
        ["aten.select", "glmc.linear"],
    ),
    "embedding": (lambda x, m: F.embedding(x.long().abs() % 9, m.table), []),
}


@pytest.mark.parametrize("name", CASES)
def test_one_spelling(name: str) -> None:
    function, expected = CASES[name]
    program = traced(function, torch.randn(2, 4, 6))
    x = torch.randn(3, 4, 6)
    before = program(x)[0]
    program.apply(canonical.PASS)
    if name == "embedding":
        assert len(program.nodes("glmc.embedding")) == 1
    else:
        assert names(program) == expected
    assert torch.equal(program(x)[0], before)
    text = program.text()
    assert program.apply(canonical.PASS).matches == []
    assert program.text() == text


def test_bounds_are_plain() -> None:
    program = traced(lambda x, _: x.chunk(2, -1)[1] + x[..., -3:], torch.randn(2, 4, 6))
    program.apply(canonical.PASS)
    assert [node.args[1:] for node in program.nodes("aten.slice")] == [(2, 3, 6), (2, 3, 6)]


def test_dimensions_count_from_zero() -> None:
    program = traced(lambda x, _: x.transpose(-1, -2), torch.randn(2, 4, 6))
    program.apply(canonical.PASS)
    (node,) = program.nodes("aten.permute")
    assert list(node.args[1]) == [0, 2, 1]  # type: ignore[arg-type]


KEPT: dict[str, Callable[..., Tensor]] = {
    "linear of two values": lambda x, _: F.linear(x, x[0]),
    "matmul of two values": lambda x, _: x @ x[0].t(),
    "mm of two values": lambda x, _: torch.mm(x[0], x[1].t()),
    "linear of a weight times a value": lambda x, m: F.linear(x, m.weight * x[0, 0]),
    "scaled addmm": lambda x, m: torch.addmm(m.bias, x[0], m.weight.t(), alpha=2),
    "product of two values": lambda x, _: x @ x.transpose(-1, -2),
    "product with a plain matrix": lambda x, m: x[..., :3] @ m.weight,
}


@pytest.mark.parametrize("name", KEPT)
def test_other_products_stay(name: str) -> None:
    program = traced(KEPT[name], torch.randn(2, 4, 6))
    x = torch.randn(3, 4, 6)
    before = program(x)[0]
    program.apply(canonical.PASS)
    assert not program.nodes("glmc.linear")
    assert torch.equal(program(x)[0], before)


PICKED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "take_along_dim": lambda x, ids: torch.take_along_dim(x, ids, -1),
    "index": lambda x, ids: x[torch.arange(x.shape[0])[:, None], ids],
}


class Picked(nn.Module):
    def __init__(self, name: str, found: bool) -> None:
        super().__init__()
        self.pick, self.found = PICKED[name], found

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.pick(x, x.topk(2, -1)[1] if self.found else ids)


@pytest.mark.parametrize("name", PICKED)
def test_only_places_that_an_op_found_are_gathered(name: str) -> None:
    """Others may be counted from the end, which gather refuses."""
    x, ids = torch.randn(4, 6), torch.zeros(4, 2, dtype=torch.int64)
    found, given = (trace(Picked(name, each), x, ids) for each in (True, False))
    assert found.nodes("aten.gather")
    assert not given.nodes("aten.gather")
    assert torch.equal(given(x, ids - 2)[0], x[:, -2:-1].expand(4, 2))


def test_what_it_replaces_names_the_new_node() -> None:
    program = traced(lambda x, m: F.linear(x, m.weight), torch.randn(2, 4, 6))
    (old,) = program.nodes("aten.linear")
    program.apply(canonical.PASS)
    (new,) = program.nodes("glmc.linear")
    assert new.meta["id"] == old.meta["id"]
    assert new.meta["passes"] == ("canonical",)

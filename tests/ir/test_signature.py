"""Signatures: equal for what computes the same of operands alike, and for nothing else."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node

from glmc.ir.match import NoMatchError, refuse
from glmc.ir.signature import once, signature, value_key
from tests.support.traced import Traced, trace


class Two(nn.Module):
    def __init__(self, first: Callable[..., Tensor], second: Callable[..., Tensor]) -> None:
        super().__init__()
        self.functions = (first, second)
        self.weight = nn.Parameter(torch.ones(6))
        self.other = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.functions
        return first(x + 1, self), second(x - 1, self)


def keys(first: Callable[..., Tensor], second: Callable[..., Tensor]) -> list[Hashable]:
    """Signatures of both results in terms of ``x + 1`` and ``x - 1``."""
    traced: Traced = trace(Two(first, second), torch.randn(2, 3, 6))
    starts = [traced.nodes("aten.add")[0], traced.nodes("aten.sub")[0]]
    output = next(node for node in reversed(traced.program.graph.nodes) if node.op == "output")
    roots: list[Node] = list(output.args[0])  # type: ignore[arg-type]
    return [signature(root, [start]) for root, start in zip(roots, starts, strict=True)]


def same(x: Tensor, m: Two) -> Tensor:
    return (x * 2).exp() * m.weight


DIFFERENT: dict[str, Callable[..., Tensor]] = {
    "number": lambda x, m: (x * 3).exp() * m.weight,
    "op": lambda x, m: (x * 2).sin() * m.weight,
    "weight": lambda x, m: (x * 2).exp() * m.other,
    "order": lambda x, m: m.weight * (x * 2).exp(),
    "dtype": lambda x, m: (x.double() * 2).exp() * m.weight,
    "more": lambda x, m: ((x * 2).exp() * m.weight).exp(),
}


def test_equal_spellings_are_equal() -> None:
    first, second = keys(same, same)
    assert first == second and hash(first) == hash(second)


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_spelling_differs(name: str) -> None:
    first, second = keys(same, DIFFERENT[name])
    assert first != second


def test_what_of_a_value_counts() -> None:
    base = value_key(torch.ones(2, 3))
    assert base == value_key(torch.zeros(2, 3))
    assert base != value_key(torch.ones(3, 2)) and base != value_key(torch.ones(2, 3).double())
    assert value_key(1) != value_key(1.0) and value_key((1, 2)) == value_key([1, 2])


def test_work_is_done_once_and_a_refusal_is_not_kept() -> None:
    program = trace(Two(same, same), torch.randn(2, 3, 6)).program
    done: list[int] = []
    for _ in range(2):
        assert once(program, "key", lambda: done.append(1) or "found") == "found"  # type: ignore[func-returns-value]
    assert done == [1]
    node = next(iter(program.graph.nodes))
    for _ in range(2):
        with pytest.raises(NoMatchError):
            once(program, "refused", lambda: refuse(node, "no"))
    assert "refused" not in program.memo

"""Outputs of the compiled function have the layout and the aliases of those of eager code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten


def shared(tensors: list[Any]) -> list[list[bool]]:
    """Which of the tensors are in one memory."""
    places = [one.untyped_storage().data_ptr() for one in tensors if isinstance(one, Tensor)]
    return [[one == other for one in places] for other in places]


def compare(function: Callable[..., Any], *inputs: Tensor, **keywords: Any) -> None:
    """Two calls, compiled and eager: values, dtypes, strides, shared memory, written inputs."""
    torch._dynamo.reset()
    compiled = torch.compile(function, backend="kunlun", **keywords)
    for _ in range(2):
        given, twins = ([one.clone() for one in inputs] for _ in range(2))
        expected, structure = tree_flatten(function(*twins))
        found, same = tree_flatten(compiled(*given))
        assert same == structure
        for mine, theirs in zip([*found, *given], [*expected, *twins], strict=True):
            torch.testing.assert_close(mine, theirs, check_stride=True)
        assert shared([*found, *given]) == shared([*expected, *twins])


def _old_and_new(cache: Tensor, x: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    before = cache.clone()
    cache.index_copy_(0, at, x)
    return before, cache[1]


def _swap(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    kept = one[1:].clone()
    one[1:].copy_(other[1:])
    other[:-1].copy_(kept)
    return one[0], other[1:]


def _several_of_one(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 2
    return y, y[1:], y.t(), y.view(-1)[::2], y.view(torch.int32)


@pytest.mark.parametrize(
    "function",
    [
        _several_of_one,
        lambda x: (x, x[0], x.t(), x.view(-1)),
        lambda x: x.t().mul_(2),
        lambda x: x[1:].add_(1),
        lambda x: x.t() + 1,
        lambda x: (x * 2)[:, ::2],
        lambda x: (x[:1] * 2).expand(3, -1),
        lambda x: (x[:0] * 2, x[0] * 1),
        lambda x: (torch.zeros(3), torch.zeros(4).add_(x[0])),
        lambda x: x.view(torch.int32),
    ],
)
@pytest.mark.parametrize("dynamic", [True, False])
def test_views_and_copies(function: Callable[..., Any], dynamic: bool) -> None:
    compare(function, torch.randn(3, 4), dynamic=dynamic)


def test_values_from_before_a_write() -> None:
    compare(_old_and_new, torch.randn(6, 3), torch.randn(2, 3), torch.tensor([1, 4]))
    compare(_swap, torch.randn(4), torch.randn(4))


def test_a_view_that_is_written_behind_a_graph_break() -> None:
    def function(x: Tensor) -> Tensor:
        y = x * 2
        view = y[1:]
        torch._dynamo.graph_break()
        view.add_(1)
        return y + 0

    compare(function, torch.randn(4))


def test_views_of_an_argument_that_lies_elsewhere_in_each_call() -> None:
    function = torch.compile(lambda x: x[1:], backend="kunlun")
    memory = torch.arange(12.0)
    for start in (0, 4, 7):
        found = function(memory[start : start + 4])
        assert found.data_ptr() == memory[start + 1 :].data_ptr()
        assert found.tolist() == [start + 1.0, start + 2, start + 3]


def test_a_weight_that_is_returned_is_the_models_own() -> None:
    model = nn.Linear(3, 3).requires_grad_(False)
    torch._dynamo.reset()
    found = torch.compile(lambda: model.weight.t(), backend="kunlun")()
    assert found.data_ptr() == model.weight.data_ptr()
    assert torch.equal(found, model.weight.t())


def test_a_weight_that_is_written_under_another_name() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8, bias=False).requires_grad_(False)
            self.register_buffer("flat", self.linear.weight.view(-1))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            before = self.linear(x)
            self.flat.mul_(2)  # type: ignore[operator]
            return before, self.linear(x)

    model, twin = Tied(), Tied()
    twin.linear.weight.copy_(model.linear.weight)
    torch._dynamo.reset()
    function, x = torch.compile(model, backend="kunlun"), torch.randn(2, 8)
    for _ in range(2):
        torch.testing.assert_close(function(x), twin(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x * 2).view(torch.int32) + 1,
        lambda x: torch.view_as_real(torch.view_as_complex(x.view(3, 2, 2)) * 1j),
        lambda x: torch.view_as_complex(x.view(3, 2, 2)).conj() * 2,
        lambda x: x.to(torch.float8_e4m3fn).float(),
        lambda x: x.double().cumsum(0),
    ],
)
def test_dtypes_that_no_kernel_of_ours_has(function: Callable[..., Any]) -> None:
    compare(function, torch.randn(3, 4))


def test_numbers_that_follow_the_sizes() -> None:
    def function(x: Tensor) -> tuple[Tensor, float, bool]:
        return x / x.shape[0] ** 0.5, x.shape[0] / 2, x.shape[0] > 2

    torch._dynamo.reset()
    compiled = torch.compile(function, backend="kunlun", dynamic=True)
    for size in (3, 5, 9):
        x = torch.randn(size)
        found, expected = compiled(x), function(x)
        torch.testing.assert_close(found[0], expected[0])
        assert found[1:] == expected[1:]


def _of_its_own_columns(x: Tensor, at: Tensor) -> Tensor:
    doubled = x * 2
    return doubled.index_copy(1, at, doubled[:, 0:2])


def _of_its_own_rows(x: Tensor, at: Tensor) -> Tensor:
    doubled = x * 2
    return doubled.index_copy(0, at, doubled[:2])


def _put_of_itself(x: Tensor, at: Tensor) -> Tensor:
    doubled = x * 2
    return doubled.index_put((at,), doubled[1:3])


@pytest.mark.parametrize("function", [_of_its_own_columns, _of_its_own_rows, _put_of_itself])
def test_a_write_of_what_is_in_the_same_memory(function: Callable[..., Any]) -> None:
    compare(function, torch.arange(16.0).view(4, 4), torch.tensor([1, 2]))

"""The kernels that a plan of several ranks calls, bound in a group and outside of one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glmc.ir.ops.norms import add_rms_norm
from glmc_runtime.collectives.group import Group
from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.group import in_group
from tests.runtime.collectives.conftest import in_groups


def call(group: Group, name: str, **arguments: Any) -> None:
    with in_group(group):
        thunk = find_binder(f"collective.{name}")(arguments)
    thunk()


def test_all_reduce_adds_in_place() -> None:
    def run(group: Group) -> Tensor:
        x = torch.full((3, 4), float(group.rank + 1))
        call(group, "all_reduce", x=x)
        return x

    assert all(torch.equal(x, torch.full((3, 4), 6.0)) for x in in_groups(3, run))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3])
def test_all_reduce_and_norm_in_one_call(dtype: torch.dtype, rows: int) -> None:
    """Bit for bit what two calls give, and near to the op."""
    generator = torch.Generator().manual_seed(rows)
    weight, residual, *parts = (
        torch.randn(shape, generator=generator).to(dtype)
        for shape in ((8,), (rows, 8), (rows, 8), (rows, 8))
    )

    def memory() -> dict[str, Any]:
        scratch = {"hidden": (rows, 8), "square": (rows, 8), "variance": (rows, 1)}
        return {
            "residual": (total := residual.clone()),
            "weight": weight,
            "eps": 1e-5,
            "out": torch.full((rows, 8), torch.nan, dtype=dtype),
            "total": total,
            **{name: torch.full(shape, torch.nan) for name, shape in scratch.items()},
        }

    def run(group: Group) -> Tensor:
        x, given = parts[group.rank].clone(), memory()
        call(group, "all_reduce_add_rms_norm", x=x, **given)
        return torch.stack((x, given["out"], given["total"]))

    summed, apart = parts[0] + parts[1], memory()
    find_binder("cpu.add_rms_norm")({"x": summed, **apart})()
    expected = torch.stack((summed, apart["out"], apart["total"]))
    assert all(torch.equal(found, expected) for found in in_groups(2, run))
    by_op = add_rms_norm(summed, residual, weight, 1e-5)
    torch.testing.assert_close((apart["out"], apart["total"]), by_op)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("cut", [0, 1, 5])
@pytest.mark.parametrize("scratch", [True, False])
def test_all_gather_puts_parts_side_by_side(axis: int, cut: int, scratch: bool) -> None:
    wholes = [torch.arange(12).view(3, 4) + 100 * rank for rank in range(3)]
    whole = torch.cat(wholes, axis)
    whole = whole.narrow(axis, 0, whole.shape[axis] - cut)

    def run(group: Group) -> Tensor:
        out = torch.empty_like(whole.contiguous())
        parts = {"parts": torch.empty(3, 3, 4, dtype=torch.int64)} if scratch else {}
        call(group, "all_gather", x=wholes[group.rank], out=out, **parts)
        return out

    assert all(torch.equal(out, whole) for out in in_groups(3, run))


def test_all_gather_of_one_part() -> None:
    def run(group: Group) -> Tensor:
        out = torch.empty(2, 2)
        call(group, "all_gather", x=torch.full((2, 2), float(group.rank)), out=out)
        return out

    assert all(torch.equal(out, torch.zeros(2, 2)) for out in in_groups(2, run))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_reduce_scatter_is_a_part_of_the_all_reduce(axis: int, size: int) -> None:
    """Bit for bit: both add along one tree."""

    def run(group: Group) -> tuple[Tensor, Tensor]:
        x = torch.randn(12, 24, generator=torch.Generator().manual_seed(group.rank))
        part = list(x.shape)
        part[axis] //= size
        out = torch.empty(part)
        call(group, "reduce_scatter", x=x, out=out)
        group.all_reduce_of(x, "butterfly")()
        return out, x.chunk(size, axis)[group.rank]

    for out, expected in in_groups(size, run):
        assert torch.equal(out, expected)


def test_outside_of_a_group_nothing_is_bound() -> None:
    for name in ("all_reduce", "all_gather", "reduce_scatter", "all_reduce_add_rms_norm"):
        with pytest.raises(PlanError, match="bound in a session of one") as caught:
            find_binder(f"collective.{name}")({"x": torch.ones(2), "out": torch.ones(2)})
        assert "glmc_runtime.load" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "x", "out"),
    [
        ("all_gather", (3, 4), (3, 9)),  # more than two ranks have
        ("all_gather", (3, 4), (3, 3)),
        ("all_gather", (3, 4), (6, 8)),
        ("all_gather", (3, 4), (24,)),
        ("reduce_scatter", (3, 4), (3, 1)),
        ("reduce_scatter", (4, 4), (2, 2)),
        ("reduce_scatter", (4, 4), (4, 4)),
    ],
)
def test_shapes_that_no_collective_makes(
    name: str, x: tuple[int, ...], out: tuple[int, ...]
) -> None:
    arguments = {"x": torch.zeros(x), "out": torch.zeros(out)}
    group = Group(0, 2, None)
    with in_group(group), pytest.raises(PlanError, match="wrong shape"):
        find_binder(f"collective.{name}")(arguments)

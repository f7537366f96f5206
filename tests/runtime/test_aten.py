"""The helpers common to all targets: numbers, and no allocation when they run."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder
from tests.runtime.counting import FreshStorage


def _run(name: str, **arguments: Any) -> None:
    thunk = find_binder(name)(arguments)
    with FreshStorage() as counter:
        thunk()
    assert counter.fresh == []


def _random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear(dtype: torch.dtype, rows: int, with_bias: bool) -> None:
    x, weight = _random(rows, 8, dtype=dtype), _random(6, 8, dtype=dtype)
    bias = _random(6, dtype=dtype) if with_bias else None
    out = torch.full((rows, 6), torch.nan, dtype=dtype)
    _run("aten.linear", x=x, weight=weight, bias=bias, out=out)
    torch.testing.assert_close(out, torch.nn.functional.linear(x, weight, bias))


def test_linear_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(PlanError, match="do not fit"):
        find_binder("aten.linear")(
            {"x": _random(2, 7), "weight": _random(6, 8), "bias": None, "out": _random(2, 6)}
        )


def test_copy_casts_and_zero_clears() -> None:
    source, out = _random(3, 4), torch.empty(12, dtype=torch.bfloat16)
    _run("aten.copy", source=source, out=out)
    assert torch.equal(out, source.bfloat16().view(-1))
    _run("aten.zero", out=out)
    assert not out.any()


def test_adding_tensors_imports_no_symbolic_shapes() -> None:
    """They would be most of the time to the first token."""
    code = (
        "import sys, torch\n"
        "from glmc_runtime.kernels import find_binder\n"
        "x, out = torch.ones(2, 3), torch.empty(2, 3)\n"
        "find_binder('aten.add')({'x': x, 'y': x[:1], 'out': out})()\n"
        "assert out.eq(2).all()\n"
        "sys.exit('sympy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_add_in_place_and_broadcast() -> None:
    x, y = _random(3, 4), _random(4)
    expected = x + y
    _run("aten.add", x=x, y=y, out=x)
    assert torch.equal(x, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_lost_fusion_leaves(dtype: torch.dtype) -> None:
    x = _random(5, 8, dtype=dtype)
    row, column = _random(8, dtype=dtype), _random(5, 1, dtype=dtype)
    cases: dict[str, tuple[dict[str, Any], torch.Tensor]] = {
        "aten.mul": ({"x": row, "y": x}, row * x),
        "aten.add": ({"x": x, "y": 0.5}, x + 0.5),
        "aten.pow": ({"x": x, "exponent": 2.0}, x.pow(2)),
        "aten.rsqrt": ({"x": x.abs()}, x.abs().rsqrt()),
        "aten.silu": ({"x": x}, torch.nn.functional.silu(x)),
        "aten.mean_columns": ({"x": x}, x.mean(-1, keepdim=True)),
        "aten.slice_columns": ({"x": x, "start": 2, "stop": 7}, x[:, 2:7]),
    }
    for name, (arguments, expected) in cases.items():
        out = torch.full(expected.shape, torch.nan, dtype=dtype)
        _run(name, **arguments, out=out)
        assert torch.equal(out, expected), name
    out = torch.empty(5, 8, dtype=dtype)
    _run("aten.mul", x=x, y=column, out=out)
    assert torch.equal(out, x * column)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (2, 2), (0, 9)])
def test_columns_that_do_not_exist_are_refused(start: int, stop: int) -> None:
    arguments = {"x": _random(2, 8), "start": start, "stop": stop, "out": _random(2, 3)}
    with pytest.raises(PlanError, match="do not exist"):
        find_binder("aten.slice_columns")(arguments)


@pytest.mark.parametrize("rows", [1, 4])
def test_split_and_concat_columns(rows: int) -> None:
    x = _random(rows, 9)
    parts = [torch.empty(rows, size) for size in (4, 2, 3)]
    outputs = {f"out_{number}": part for number, part in enumerate(parts)}
    _run("aten.split_columns", x=x, sizes=[4, 2, 3], **outputs)
    for part, expected in zip(parts, x.split([4, 2, 3], 1), strict=True):
        assert torch.equal(part, expected)
    back = torch.empty(rows, 9)
    _run(
        "aten.concat_columns",
        out=back,
        **{f"part_{number}": part for number, part in enumerate(parts)},
    )
    assert torch.equal(back, x)
    with pytest.raises(PlanError, match="do not add up"):
        find_binder("aten.split_columns")({"x": x, "sizes": [4, 2, 2], **outputs})


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_index_select_and_embedding(dtype: torch.dtype) -> None:
    table, rows = _random(7, 3), torch.tensor([6, 0, 6], dtype=dtype)
    out = torch.empty(3, 3)
    _run("aten.index_select", x=table, rows=rows, out=out)
    assert torch.equal(out, table[rows.long()])
    _run("aten.embedding", ids=rows, weight=table, out=out.zero_())
    assert torch.equal(out, table[rows.long()])


def test_an_out_of_another_shape_is_refused_and_never_resized() -> None:
    x, wide = _random(4, 3), torch.zeros(4, 5)
    rows = torch.tensor([0, 1])
    for name, arguments in (
        ("aten.add", {"x": x, "y": x, "out": wide}),
        ("aten.copy", {"source": x, "out": wide}),
        ("aten.index_select", {"x": x, "rows": rows, "out": x}),
        ("aten.embedding", {"ids": rows, "weight": x, "out": _random(4, 3)}),
        ("aten.concat_columns", {"part_0": x, "part_1": x, "out": wide}),
        ("aten.linear", {"x": x, "weight": _random(5, 3), "out": torch.zeros(2, 5)}),
    ):
        with pytest.raises(PlanError, match=r"wrong (shape|size)"):
            find_binder(name)(arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_argmax_rows(dtype: torch.dtype) -> None:
    x = _random(7, 9, dtype=dtype)
    x[0, 3] = x[0, 5] = 9  # of equal ones the first
    x[1, 4] = torch.nan
    x[2] = -torch.inf
    x[3, 2] = torch.inf
    x[4, 1:] = -torch.inf  # one finite number is the largest
    out = torch.full((7,), 99)
    _run("aten.argmax_rows", x=x, out=out)
    assert out[:5].tolist() == [3, -1, -1, -1, 0]
    assert torch.equal(out[5:], x[5:].argmax(-1))
    for wrong in (torch.zeros(6, dtype=torch.int64), torch.zeros(7, dtype=torch.int32)):
        with pytest.raises(PlanError):
            find_binder("aten.argmax_rows")({"x": x, "out": wrong})


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("first", [0, 4, 12])
def test_ids_and_weights_of_a_ranks_own_experts(dtype: torch.dtype, first: int) -> None:
    """Of 16 experts, 4 of which are here; a wild id is nobody's."""
    ids = torch.tensor([[0, 3, 4, 7], [8, 15, -1, (1 << 31) - 1]], dtype=dtype)
    weights = _random(2, 4)
    local, scores = torch.full((2, 4), 99, dtype=torch.int32), torch.full((2, 4), torch.nan)
    flags = (torch.zeros(2, 4, dtype=torch.bool) for _ in range(2))
    _run(
        "aten.local_experts",
        ids=ids,
        weights=weights,
        first=torch.tensor([first]),
        experts=4,
        places=torch.empty_like(ids),
        **dict(zip(("foreign", "beyond"), flags, strict=True)),
        local=local,
        scores=scores,
    )
    mine = (ids >= first) & (ids < first + 4)
    assert torch.equal(local, torch.where(mine, ids - first, -1).to(torch.int32))
    assert torch.equal(scores, torch.where(mine, weights, 0.0))


def test_rows_of_a_part_of_the_vocabulary() -> None:
    ids, weight, out = torch.tensor([5, 0, 9, 6, -3]), _random(3, 4), torch.full((5, 4), torch.nan)
    flags = (torch.zeros(5, dtype=torch.bool) for _ in range(2))
    _run(
        "aten.local_embedding",
        ids=ids,
        weight=weight,
        first=torch.tensor([5]),
        rows=torch.empty_like(ids),
        **dict(zip(("elsewhere", "beyond"), flags, strict=True)),
        out=out,
    )
    expected = torch.zeros(5, 4)
    expected[0], expected[3] = weight[0], weight[1]
    assert torch.equal(out, expected)

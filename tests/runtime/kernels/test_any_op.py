"""Any ATen op by name: into given memory, in its own form or by a copy."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels.any_op import _writing_form, aten
from glmc_runtime.kernels.traced import find_traced_binder

X = torch.tensor([[3.0, -1.0], [0.5, 2.0]])


def run(name: str, *operands: Any, results: list[torch.Tensor], **keywords: Any) -> None:
    find_traced_binder("aten.any")(
        {
            "op": name,
            "operands": list(operands),
            "keyword_names": list(keywords),
            "keyword_values": list(keywords.values()),
            "results": results,
        }
    )()


@pytest.mark.parametrize(
    ("name", "operands", "keywords"),
    [
        ("aten.add.Tensor", (X, X), {"alpha": 2}),
        ("aten.cat.default", ([X, X], 1), {}),
        ("aten.le.Tensor", (X, X * 2), {}),
        ("aten.index.Tensor", (X, [torch.tensor([1, 0])]), {}),
        ("aten.sum.dim_IntList", (X, [1]), {"dtype": torch.float64}),
        ("aten.arange.default", (4,), {"dtype": torch.int64}),
        ("aten.topk.default", (X, 1), {}),
        ("aten.scaled_dot_product_attention.default", (X[None], X[None], X[None]), {}),
        ("aten.gelu.default", (X,), {"approximate": "tanh"}),
    ],
)
def test_the_values_are_those_of_the_op(
    name: str, operands: tuple[Any, ...], keywords: dict[str, Any]
) -> None:
    expected = aten(name)(*operands, **keywords)
    several = expected if isinstance(expected, tuple) else (expected,)
    results = [torch.zeros_like(one) for one in several]
    pointers = [one.data_ptr() for one in results]
    run(name, *operands, results=results, **keywords)
    assert all(torch.equal(one, other) for one, other in zip(results, several, strict=True))
    assert [one.data_ptr() for one in results] == pointers


@pytest.mark.parametrize(
    ("name", "operands", "keywords"),
    [
        ("aten.full.default", ([2, 2], 7.0), {"device": torch.device("meta"), "pin_memory": True}),
        ("aten.to.device", (X + 4, torch.device("meta"), torch.float32), {}),
    ],
)
def test_values_stay_on_the_device_of_the_plan(
    name: str, operands: tuple[Any, ...], keywords: dict[str, Any]
) -> None:
    result = torch.zeros(2, 2)
    run(name, *operands, results=[result], **keywords)
    assert torch.equal(result, operands[0] if name == "aten.to.device" else torch.full((2, 2), 7.0))


def test_random_numbers_are_those_of_the_device_that_the_program_names() -> None:
    torch.manual_seed(0)
    result = torch.zeros(4)
    run("aten.rand.default", [4], results=[result], device=torch.device("cpu"))
    torch.manual_seed(0)
    assert torch.equal(result, torch.rand(4))
    with pytest.raises((RuntimeError, NotImplementedError)):  # asked of it, and has none to copy
        run("aten.rand.default", [4], results=[result], device=torch.device("meta"))


def test_the_form_that_writes_is_found() -> None:
    form, outs = _writing_form("aten.topk.default") or (None, ())
    assert form is torch.ops.aten.topk.values
    assert outs == ("values", "indices")
    assert _writing_form("aten.scaled_dot_product_attention.default") is None


def test_an_op_that_changes_its_first_operand() -> None:
    target = torch.zeros(4)
    find_traced_binder("aten.any_in_place")(
        {
            "op": "aten.index_copy_.default",
            "target": target,
            "operands": [0, torch.tensor([2, 0]), torch.tensor([5.0, 6.0])],
            "keyword_names": [],
            "keyword_values": [],
        }
    )()
    assert target.tolist() == [6.0, 0.0, 5.0, 0.0]


@pytest.mark.parametrize("name", ["aten.no_such_op.default", "aten.add.NoOverload"])
def test_an_unknown_op_is_refused(name: str) -> None:
    with pytest.raises(PlanError, match="has no op"):
        aten(name)


def test_scalars_of_the_cpu_are_computed_there_and_copied() -> None:
    """As a cache's counter beside its tensors on a device; torch's own out= refuses that."""
    out = torch.empty((), dtype=torch.int64, device="meta")
    thunk = find_traced_binder("aten.any")(
        {
            "op": "aten.add.Tensor",
            "operands": [torch.tensor(3), torch.tensor(4)],
            "keyword_names": [],
            "keyword_values": [],
            "results": [out],
        }
    )
    thunk()

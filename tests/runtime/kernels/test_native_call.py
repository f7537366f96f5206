"""Calls of C in one list: the bits of calls one by one, which one failed, memory that moves."""

from __future__ import annotations

import ctypes
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from glmc_runtime.kernels.cpu import decode_library
from glmc_runtime.kernels.cpu.decode_library import FUNCTIONS, Record
from glmc_runtime.kernels.cpu.native_call import NativeCall, NativeCalls
from glmc_runtime.kernels.merging import failed_member, merged
from tests.runtime.kernels.failing_calls import WIDTH, experts, without_room
from tests.runtime.kernels.harness import nan, random
from tests.runtime.kernels.instruction_sets import each_instruction_set as each_instruction_set

pytestmark = pytest.mark.usefixtures("each_instruction_set")


class _Chain:
    """A product, its norm, SwiGLU of both and a sum: each reads what the one before it wrote."""

    def __init__(self, dtype: torch.dtype = torch.float32, rows: int = 3) -> None:
        self.x, self.weight = (random(n, WIDTH, dtype=dtype, seed=n) for n in (rows, WIDTH))
        self.norm, self.bias = (random(WIDTH, dtype=dtype, seed=seed) for seed in (3, 4))
        self.results = [nan(rows, WIDTH, dtype=dtype) for _ in range(4)]
        product, normed, gated, total = self.results
        self.calls = (
            NativeCall(
                "few_rows_product",
                (self.x, self.weight, self.bias, product),
                (rows, WIDTH, WIDTH),
            ),
            NativeCall(
                "rows_norm", (product, None, self.norm, None, normed), (rows, WIDTH), (1e-5,)
            ),
            NativeCall("rows_gated", (product, normed, gated), (rows, WIDTH, WIDTH)),
            NativeCall("rows_add", (gated, product, total), (total.numel(),)),
        )

    def apart(self) -> list[Tensor]:
        for call in self.calls:
            call()
        return [result.clone() for result in self.results]

    def one(self) -> NativeCalls:
        (found,) = merged(self.calls)
        assert isinstance(found, NativeCalls) and found.calls == self.calls
        for result in self.results:
            result.fill_(torch.nan)
        return found

    def require(self, expected: list[Tensor]) -> None:
        for found, wanted in zip(self.results, expected, strict=True):
            assert torch.equal(found, wanted)


def test_a_record_is_as_large_as_in_c() -> None:
    library: Any = decode_library._library()
    assert ctypes.c_long.in_dll(library, "call_size").value == ctypes.sizeof(Record)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_another_number_of_arguments_is_refused(function: str) -> None:
    counts = FUNCTIONS[function]
    given = torch.zeros(1)
    for more in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0)):
        tensors, longs, floats = (n + m for n, m in zip(counts, more, strict=True))
        with pytest.raises(TypeError, match=function):
            NativeCall(function, (given,) * tensors, (0,) * longs, (0.0,) * floats)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_list_has_the_bits_of_the_calls(dtype: torch.dtype) -> None:
    chain = _Chain(dtype)
    expected = chain.apart()
    one = chain.one()
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        for result in chain.results:
            result.fill_(torch.nan)
        one()
        assert one.failed is None
        chain.require(expected)


def test_the_number_of_threads_is_asked_for_once_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    one, counts = _Chain().one(), iter((1, 2))
    monkeypatch.setattr(torch, "get_num_threads", lambda: next(counts))
    one()
    one()
    assert next(counts, None) is None


def test_the_first_call_that_fails_ends_it_and_is_known() -> None:
    chain, (bad, ids) = _Chain(), experts(2)
    expected = chain.apart()
    (one,) = merged((*chain.calls[:2], bad, *chain.calls[2:]))
    assert isinstance(one, NativeCalls)
    for wrong in (2, -1):
        chain.one()
        ids.fill_(wrong)
        words = "an index of few_rows_experts is beyond what it counts"
        with pytest.raises(IndexError, match=words):
            bad()
        with pytest.raises(IndexError, match=words):
            one()
        assert one.failed is failed_member(one) is bad
        for result, wanted in zip(chain.results[:2], expected[:2], strict=True):
            assert torch.equal(result, wanted)
        assert all(bool(result.isnan().all()) for result in chain.results[2:])
    ids.fill_(1)
    one()
    assert one.failed is None and failed_member(one) is one
    chain.require(expected)


def test_no_memory_is_known_too() -> None:
    chain, bad = _Chain(), without_room()
    (one,) = merged((*chain.calls, bad))
    for thunk in (bad, one):
        with pytest.raises(MemoryError, match="no memory for the work space of rows_heads"):
            thunk()
    assert failed_member(one) is bad


@pytest.mark.parametrize("name", ["x", "weight", "norm", "bias"])
def test_memory_that_a_storage_is_given_later_is_read(name: str) -> None:
    chain = _Chain()
    one, moved = chain.one(), getattr(chain, name)
    one()
    before, first = moved.data_ptr(), [result.clone() for result in chain.results]
    moved.share_memory_()
    assert moved.data_ptr() != before
    moved.mul_(2)
    one()
    found = [result.clone() for result in chain.results]
    assert not torch.equal(found[0 if name != "norm" else 1], first[0 if name != "norm" else 1])
    chain.require(chain.apart())
    assert all(map(torch.equal, found, chain.results))


def test_so_is_that_of_a_storage_with_several_tensors() -> None:
    """As an arena has them: one tensor of a storage says where all of it is."""
    arena = torch.zeros(4, 8)
    x, y, total = arena[0], arena[1], nan(8)
    before = y.data_ptr()
    (one,) = merged(
        (NativeCall("rows_add", (x, y, total), (8,)), NativeCall("rows_add", (y, y, y), (8,)))
    )
    for move in (lambda: x.fill_(3), arena.share_memory_, lambda: x.fill_(5)):
        move()
        y.fill_(2)
        one()
        assert torch.equal(total, x + 2) and bool((y == 4).all())
    assert y.data_ptr() != before


def test_nothing_is_kept_alive_by_a_circle() -> None:
    """A session that is dropped gives up its memory at once."""
    gc.collect()
    gc.disable()
    try:
        chain = _Chain()
        one, weight = chain.one(), weakref.ref(chain.weight)
        one()
        chain.apart()
        del one, chain
        assert weight() is None
    finally:
        gc.enable()

"""Kernels of the CPU over caches of other strides: what they do over contiguous ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cpu.cache_memory import blocks_follow, write_slots
from tests.runtime.kernels.cache_layouts import LAYOUTS
from tests.runtime.kernels.harness import nan, random
from tests.runtime.kernels.test_cpu_attention import (
    BLOCK,
    CONTIGUOUS,
    HEAD,
    SCATTERED,
    batch_scratch,
    decode_arguments,
    int32,
)

EACH_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)
_FOLLOWING = {"two", "keys_then_values"}


def elsewhere(arguments: dict[str, Any], layout: str) -> dict[str, Any]:
    """The arguments with their caches copied into memory of another layout."""
    names = ("key_cache", "value_cache")
    caches = LAYOUTS[layout](*arguments["key_cache"].shape, arguments["key_cache"].dtype)
    for name, cache in zip(names, caches, strict=True):
        cache.copy_(arguments[name])
    return {
        name: value.clone() if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    } | dict(zip(names, caches, strict=True))


def same(kernel: str, arguments: dict[str, Any], layout: str, *results: str) -> None:
    moved = elsewhere(arguments, layout)
    for each in (arguments, moved):
        find_binder(f"cpu.{kernel}")(each)()
    for name in results:
        assert torch.equal(moved[name].nan_to_num(7.0), arguments[name].nan_to_num(7.0)), name
        assert name.endswith("cache") or moved[name].isfinite().all()


@EACH_LAYOUT
def test_only_some_layouts_have_blocks_that_follow_each_other(layout: str) -> None:
    keys, values = LAYOUTS[layout](5, BLOCK, 2, HEAD, torch.float32)
    assert blocks_follow(keys) == blocks_follow(values) == (layout in _FOLLOWING)


@EACH_LAYOUT
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_and_values_are_written_to_their_slots(layout: str, dtype: torch.dtype) -> None:
    q_heads, kv_heads, tokens = 6, 2, 5
    rows = (tokens, q_heads + kv_heads)
    arguments = {
        "qkv": random(tokens, (q_heads + 2 * kv_heads) * HEAD, dtype=dtype),
        "q_norm": None,
        "k_norm": None,
        "cos_sin": random(20, HEAD, dtype=dtype, seed=2),
        "positions": torch.tensor([19, 0, 3, 3, 7]),
        "slot_mapping": torch.tensor([13, 4, 27, 30, 9]),
        "key_cache": random(8, BLOCK, kv_heads, HEAD, dtype=dtype, seed=3),
        "value_cache": random(8, BLOCK, kv_heads, HEAD, dtype=dtype, seed=4),
        "query": nan(tokens, q_heads, HEAD, dtype=dtype),
        "interleaved": False,
        "norm_eps": 1e-5,
        "table": nan(tokens, HEAD, dtype=dtype),
        "product": nan(*rows, HEAD // 2, dtype=dtype),
        "turned": nan(*rows, HEAD, dtype=dtype),
    }
    before = arguments["key_cache"].clone()
    same("qkv_rope_cache", arguments, layout, "query", "key_cache", "value_cache")
    assert not torch.equal(arguments["key_cache"], before)


@EACH_LAYOUT
@pytest.mark.parametrize("slot", [-1, 8 * BLOCK])
def test_a_slot_that_a_cache_does_not_have_is_an_error(layout: str, slot: int) -> None:
    cache, _ = LAYOUTS[layout](8, BLOCK, 2, HEAD, torch.float32)
    with pytest.raises(IndexError):
        write_slots(cache, torch.tensor([slot]), random(1, 2, HEAD))()
    assert not cache.any()


@EACH_LAYOUT
@pytest.mark.parametrize("tables", [CONTIGUOUS, SCATTERED], ids=["contiguous", "scattered"])
@pytest.mark.parametrize("batched", [False, True], ids=["one by one", "batched"])
def test_decode_attention(layout: str, tables: list[list[int]], batched: bool) -> None:
    """NaN is wherever no token is."""
    arguments = decode_arguments(torch.float32, tables, [11, 7], (6, 2))
    if batched:
        arguments |= batch_scratch(arguments, 3 * BLOCK)
    if layout in _FOLLOWING or batched:
        same("decode_attention", arguments, layout, "out")
        return
    moved = elsewhere(arguments, layout)
    for each in (arguments, moved):
        find_binder("cpu.decode_attention")(each)()
    # Shorter runs: sums over the tokens of a block are added up.
    torch.testing.assert_close(moved["out"], arguments["out"], atol=1e-6, rtol=1e-6)


@EACH_LAYOUT
@pytest.mark.parametrize("tables", [CONTIGUOUS, SCATTERED], ids=["contiguous", "scattered"])
def test_prefill_attention(layout: str, tables: list[list[int]]) -> None:
    decode = decode_arguments(torch.float32, tables, [9, 9], (6, 2))
    names = ("key_cache", "value_cache", "block_tables", "scale")
    arguments = {name: decode[name] for name in names} | {
        "query": random(10, 6, HEAD),
        "cu_seqlens_q": int32([0, 1, 5]),
        "cu_seqlens_k": int32([0, 9, 18]),
        "out": nan(10, 6, HEAD),
    }
    same("prefill_attention", arguments, layout, "out")


def test_heads_with_gaps_and_caches_that_differ_are_refused() -> None:
    arguments = decode_arguments(torch.float32, CONTIGUOUS, [1, 1], (4, 2))
    keys = arguments["key_cache"]
    arguments["key_cache"] = torch.zeros(*keys.shape, 2).unbind(-1)[0]
    with pytest.raises(PlanError, match="heads are not contiguous"):
        find_binder("cpu.decode_attention")(arguments)
    arguments["key_cache"] = keys.transpose(1, 2).contiguous().transpose(1, 2)
    with pytest.raises(PlanError, match="differ"):
        find_binder("cpu.decode_attention")(arguments)

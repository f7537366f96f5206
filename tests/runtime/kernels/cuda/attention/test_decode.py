"""Decode attention against the reference of the IR op, split and merged in every way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glmc.ir.ops import OPS
from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cuda.attention import rope_decode as rope_decode_attention
from glmc_runtime.kernels.cuda.attention import splits as decode_splits
from glmc_runtime.kernels.cuda.attention.splits import Shape, count_splits, default
from tests.runtime.kernels.cuda.paged import (
    DEVICE,
    counters_are_zero,
    eager,
    int32,
    not_worse,
    paged,
)
from tests.runtime.kernels.harness import close, nan, random
from tests.support.thinned import crossed

SCALE = 0.21


def cut(
    splits: int, fan: int = 2, block: int = 16, shortest: int = 16, reduce: str = "last"
) -> dict[str, Any]:
    return {
        "splits": splits,
        "BLOCK": block,
        "SHORTEST": shortest,
        "FAN": fan,
        "TOGETHER": 2,
        "REDUCE": reduce,
        "num_warps": 4,
        "num_stages": 2,
    }


def case(
    lengths: list[int],
    q_heads: int = 12,
    kv_heads: int = 1,
    head_dim: int = 16,
    block_size: int = 4,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    cache = paged(lengths, kv_heads, head_dim, block_size, dtype, room=130)
    query = random(len(lengths), q_heads, head_dim, dtype=dtype).to(DEVICE)
    return {
        "query": query,
        "key_cache": cache.keys,
        "value_cache": cache.values,
        "block_tables": cache.tables,
        "context_lengths": int32(lengths),
        "scale": SCALE,
        "out": nan(*query.shape, dtype=dtype).to(DEVICE),
    }


def attend(arguments: dict[str, Any], configuration: dict[str, Any] | None = None) -> Tensor:
    out: Tensor = arguments["out"]
    find_binder("cuda.decode_attention")(arguments | {"configuration": configuration})()
    assert counters_are_zero()
    return out


def reference(arguments: dict[str, Any], dtype: torch.dtype | None = None) -> Tensor:
    names = ("query", "key_cache", "value_cache")
    query, keys, values = (arguments[name].to(dtype or arguments[name].dtype) for name in names)
    tables, lengths = arguments["block_tables"], arguments["context_lengths"]
    out: Tensor = OPS["decode_attention"].reference(query, keys, values, tables, lengths, SCALE)
    return out


# Either side of a block of the cache and of a tile, one part and several; the rest repeats them.
LENGTHS = ([1], [4], [5], [16], [17, 1], [129], [33, 64, 100])
QUICK_LENGTHS = list(zip(LENGTHS, [1, 8, 1, 8, 8, 8, 1], strict=True))
HALVES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize(("lengths", "splits"), crossed(LENGTHS, [1, 8], quick=QUICK_LENGTHS))
def test_lengths(lengths: list[int], splits: int) -> None:
    arguments = case(lengths)
    close(attend(arguments, cut(splits)), reference(arguments))


@pytest.mark.parametrize(
    ("fan", "length"),
    crossed([1, 2, 3, 16], [20, 128], quick=[(1, 20), (2, 128), (3, 128), (16, 128)]),
)
def test_merges(fan: int, length: int) -> None:
    arguments = case([length, 1, 40])
    close(attend(arguments, cut(8, fan)), reference(arguments))


@pytest.mark.parametrize(
    ("splits", "length"), crossed([1, 3, 8], [1, 20, 129], quick=[(1, 1), (3, 129), (8, 20)])
)
def test_merge_by_a_launch(splits: int, length: int) -> None:
    arguments = case([length, 1, 40], 12, 3)
    close(attend(arguments, cut(splits, reduce="launch")), reference(arguments))


@pytest.mark.parametrize(
    ("q_heads", "kv_heads", "head_dim"), [(32, 2, 16), (24, 1, 16), (15, 3, 40)]
)
def test_groups_and_heads(q_heads: int, kv_heads: int, head_dim: int) -> None:
    arguments = case([37], q_heads, kv_heads, head_dim)
    close(attend(arguments, cut(3)), reference(arguments))


@pytest.mark.parametrize("block_size", [1, 8, 16, 64])
def test_block_sizes(block_size: int) -> None:
    arguments = case([1, 16, 70], block_size=block_size)
    close(attend(arguments, cut(2, shortest=32)), reference(arguments))


@pytest.mark.parametrize(
    ("dtype", "q_heads"), crossed(HALVES, [12, 16], quick=list(zip(HALVES, [12, 16], strict=True)))
)
def test_narrow_dtypes(dtype: torch.dtype, q_heads: int) -> None:
    arguments = case([1, 47, 128], q_heads, 1, 64, 16, dtype)
    caches = (arguments["key_cache"], arguments["value_cache"])
    lengths = arguments["context_lengths"].tolist()
    theirs = eager(arguments["query"], caches, arguments["block_tables"], [1] * 3, lengths, SCALE)
    not_worse(attend(arguments, cut(4)), theirs, reference(arguments, torch.float64))


def test_same_bits_each_time() -> None:
    arguments = case([128, 30])
    first = attend(arguments, cut(8)).clone()
    arguments["out"].fill_(torch.nan)
    assert torch.equal(attend(arguments, cut(8)), first)


def test_default_configuration() -> None:
    arguments = case([1, 129, 64])
    close(attend(arguments), reference(arguments))


def test_lengths_change_between_calls() -> None:
    arguments = case([129, 129])
    thunk = find_binder("cuda.decode_attention")(arguments | {"configuration": cut(8)})
    for lengths in ([129, 1], [16, 17], [90, 128]):
        arguments["context_lengths"].copy_(int32(lengths))
        thunk()
        close(arguments["out"], reference(arguments))
        assert counters_are_zero()


def test_large_scores_do_not_overflow() -> None:
    arguments = case([100])
    arguments["query"].mul_(1e3)
    out = attend(arguments, cut(4))
    torch.testing.assert_close(out, reference(arguments), rtol=1e-3, atol=1e-3)


def test_what_does_not_fit_is_refused() -> None:
    arguments = case([5])
    with pytest.raises(PlanError, match="context_lengths"):
        attend(arguments | {"context_lengths": arguments["context_lengths"].long()})
    with pytest.raises(PlanError, match="query heads"):
        attend(arguments | {"key_cache": arguments["key_cache"].repeat(1, 5, 1, 1)})
    with pytest.raises(PlanError, match="value_cache"):
        attend(arguments | {"value_cache": arguments["value_cache"][:, :, :2]})


@pytest.mark.parametrize(
    ("sequences", "q_heads", "kv_heads", "splits"),
    [(1, 32, 2, 128), (1, 96, 8, 33), (16, 32, 2, 8), (16, 96, 8, 2), (64, 32, 2, 2)],
)
def test_grid_is_about_two_programs_per_multiprocessor(
    sequences: int, q_heads: int, kv_heads: int, splits: int
) -> None:
    shape = Shape(sequences, q_heads, kv_heads, 128, 1 << 17, torch.bfloat16)
    assert count_splits(shape, 132, 2, 128) == splits
    assert count_splits(shape._replace(longest=300), 132, 2, 128) <= 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("module", [decode_splits, rope_decode_attention])
def test_candidates_are_different_and_begin_with_the_default(
    module: Any, dtype: torch.dtype
) -> None:
    shape = Shape(1, 32, 2, 128, 1 << 15, dtype)
    found = list(module.candidates(shape))
    assert found[0] == default(shape)
    assert len({str(sorted(one.items())) for one in found}) == len(found) > 5


def test_keys_name_the_longest_context() -> None:
    shape = Shape(1, 32, 2, 128, 2048, torch.bfloat16)
    assert shape.key == "32x2x128@2048"
    assert shape._replace(longest=2049).key == "32x2x128@32768"
    assert shape._replace(longest=1 << 20).key == "32x2x128@131072"

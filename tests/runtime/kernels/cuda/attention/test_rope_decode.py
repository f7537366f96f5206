"""The fused decode step against rotation, cache write and attention one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glmc.ir.ops import OPS
from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cuda.launch import interpreted
from tests.runtime.kernels.cuda.attention.test_decode import cut
from tests.runtime.kernels.cuda.paged import (
    DEVICE,
    counters_are_zero,
    cuts_off,
    eager,
    int32,
    not_worse,
    paged,
    unchanged,
)
from tests.runtime.kernels.cuda.test_qkv_rope_cache import EPS, cos_sin, rows
from tests.runtime.kernels.cuda.test_qkv_rope_cache import reference as rotation
from tests.runtime.kernels.harness import close, nan, random
from tests.support.thinned import crossed

SCALE = 0.21


def case(
    lengths: list[int],
    q_heads: int = 12,
    kv_heads: int = 1,
    head_dim: int = 16,
    block_size: int = 4,
    dtype: torch.dtype = torch.float32,
    rotary: int = 8,
    with_norms: bool = False,
    interleaved: bool = False,
) -> dict[str, Any]:
    """A length of 0 is a padded row: it writes the scratch block and counts one token."""
    cache = paged([length - 1 if length else 0 for length in lengths], kv_heads, head_dim,
                  block_size, dtype, room=130)  # fmt: skip
    slots = [
        cache.slots(index, length - 1, length) if length else torch.zeros(1, dtype=torch.int64)
        for index, length in enumerate(lengths)
    ]
    weights: list[Tensor | None] = [None, None]
    if with_norms:
        weights = [random(head_dim, dtype=dtype, seed=seed).to(DEVICE) for seed in (7, 8)]
    tables = cache.tables.clone()
    tables[[index for index, length in enumerate(lengths) if not length]] = 0
    width = (q_heads + 2 * kv_heads) * head_dim
    return {
        "qkv": random(len(lengths), width, dtype=dtype).to(DEVICE),
        "q_norm": weights[0],
        "k_norm": weights[1],
        "norm_eps": EPS,
        "cos_sin": cos_sin(rotary, dtype),
        "positions": torch.tensor([max(length - 1, 0) % 40 for length in lengths]).to(DEVICE),
        "slot_mapping": torch.cat([slot.to(DEVICE) for slot in slots]),
        "key_cache": cache.keys,
        "value_cache": cache.values,
        "block_tables": tables,
        "context_lengths": int32([max(length, 1) for length in lengths]),
        "scale": SCALE,
        "interleaved": interleaved,
        "out": nan(len(lengths), q_heads, head_dim, dtype=dtype).to(DEVICE),
    }


def rotated(arguments: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """The query and both caches."""
    return rotation(arguments | {"query": arguments["out"]})


def reference(arguments: dict[str, Any], wide: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The output and both caches; ``wide`` attends in float64, to what was rounded to the dtype."""
    query, keys, values = rotated(arguments)
    operands = [tensor.double() if wide else tensor for tensor in (query, keys, values)]
    tables, lengths = arguments["block_tables"], arguments["context_lengths"]
    found = OPS["decode_attention"].reference(*operands, tables, lengths, SCALE)
    return found, keys, values


def check(arguments: dict[str, Any], configuration: dict[str, Any] | None = None) -> None:
    out, slots = arguments["out"], arguments["slot_mapping"]
    before = {name: arguments[name].clone() for name in ("key_cache", "value_cache")}
    expected = reference(arguments)
    find_binder("cuda.rope_decode_attention")(arguments | {"configuration": configuration})()
    assert counters_are_zero()
    if out.dtype == torch.float32:
        close(out, expected[0])
    else:
        exact, keys, values = reference(arguments, wide=True)
        tables, lengths = arguments["block_tables"], arguments["context_lengths"].tolist()
        query = rotated(arguments)[0]
        theirs = eager(query, (keys, values), tables, [1] * len(lengths), lengths, SCALE)
        not_worse(out, theirs, exact)
    is_exact = arguments["q_norm"] is None and not cuts_off(out.dtype)
    for (name, old), wanted in zip(before.items(), expected[1:], strict=True):
        assert unchanged(arguments[name], old, slots)
        if is_exact:
            assert torch.equal(rows(arguments[name], slots), rows(wanted, slots))
        else:
            close(rows(arguments[name], slots), rows(wanted, slots))


# Either side of a block of the cache and of a tile, one part and several; the rest repeats them.
LENGTHS = ([1], [2], [4], [16], [17], [18, 1], [65, 130])
QUICK_LENGTHS = (([1], 1), ([2], 8), ([4], 1), ([16], 8), ([17], 1), ([18, 1], 8), ([65, 130], 8))
ROTATIONS = ([False, True], [False, True], [8, 16], [torch.float32, torch.float16])
# Each pair of values once.
QUICK_ROTATIONS = (
    *((False, False, 8, torch.float32), (True, True, 16, torch.float32)),
    *((True, False, 8, torch.float16), (False, True, 16, torch.float16)),
    *((False, True, 8, torch.float32), (True, False, 16, torch.float16)),
)
HALVES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize(("lengths", "splits"), crossed(LENGTHS, [1, 8], quick=QUICK_LENGTHS))
def test_lengths(lengths: list[int], splits: int) -> None:
    check(case(lengths), cut(splits))


@pytest.mark.parametrize(
    ("interleaved", "with_norms", "rotary", "dtype"), crossed(*ROTATIONS, quick=QUICK_ROTATIONS)
)
def test_rotations(interleaved: bool, with_norms: bool, rotary: int, dtype: torch.dtype) -> None:
    arguments = case(
        [20],
        rotary=rotary,
        dtype=dtype,
        with_norms=with_norms,
        interleaved=interleaved,
    )
    check(arguments, cut(3))


@pytest.mark.parametrize(
    ("q_heads", "kv_heads", "head_dim"), [(32, 2, 16), (24, 1, 16), (15, 3, 40)]
)
def test_groups_and_heads(q_heads: int, kv_heads: int, head_dim: int) -> None:
    check(case([37], q_heads, kv_heads, head_dim, with_norms=True), cut(3))


@pytest.mark.parametrize(
    ("q_heads", "dtype"), crossed([12, 16], HALVES, quick=list(zip([12, 16], HALVES, strict=True)))
)
def test_narrow_dtypes(q_heads: int, dtype: torch.dtype) -> None:
    check(case([1, 47, 128], q_heads, 1, 64, 16, dtype, rotary=32), cut(4))


def test_padded_rows_stay_in_the_scratch_block() -> None:
    arguments = case([40, 0, 17, 0])
    arguments["qkv"][3] = arguments["qkv"][1]  # both write slot 0
    check(arguments, cut(4))


def test_same_bits_each_time() -> None:
    arguments = case([128, 30])
    check(arguments, cut(8))
    first = arguments["out"].clone()
    check(arguments, cut(8))
    assert torch.equal(arguments["out"], first)


@pytest.mark.parametrize(
    ("lengths", "splits"),
    crossed(
        [[1], [2], [17, 1], [65, 130, 20]],
        [1, 8],
        quick=[([1], 8), ([17, 1], 1), ([65, 130, 20], 8)],
    ),
)
def test_merge_by_a_launch(lengths: list[int], splits: int) -> None:
    check(case(lengths, 24, 2, with_norms=True), cut(splits, reduce="launch"))


@pytest.mark.parametrize("fan", [1, 3, 16])
def test_merge_in_one_step_and_in_two(fan: int) -> None:
    check(case([130, 1, 40]), cut(8, fan))


def test_default_configuration() -> None:
    check(case([1, 100], with_norms=True))


def test_same_as_the_two_kernels() -> None:
    arguments = case([1, 30, 129], with_norms=True, interleaved=True)
    keys, values = arguments["key_cache"].clone(), arguments["value_cache"].clone()
    check(arguments, cut(8))
    query = torch.empty_like(arguments["out"])
    apart = arguments | {"key_cache": keys, "value_cache": values, "query": query}
    find_binder("cuda.qkv_rope_cache")(apart)()
    for name in ("key_cache", "value_cache"):
        if interpreted():
            assert unchanged(arguments[name], apart[name], int32([]).long())
        else:  # threads add up the squares of a head in each kernel's own order
            one, other = (each[name].nan_to_num(nan=7.0) for each in (arguments, apart))
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    together = arguments["out"].clone()
    find_binder("cuda.decode_attention")(apart | {"configuration": cut(8)})()
    close(together, arguments["out"])


def test_what_does_not_fit_is_refused() -> None:
    arguments, bind = case([5]), find_binder("cuda.rope_decode_attention")
    with pytest.raises(PlanError, match="slot_mapping"):
        bind(arguments | {"slot_mapping": torch.zeros(2, dtype=torch.int64, device=DEVICE)})
    with pytest.raises(PlanError, match="qkv"):
        bind(arguments | {"qkv": arguments["qkv"][:, :-16].contiguous()})

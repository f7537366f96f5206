"""Split, norm, rotation and cache write against the reference of the IR op, bit by bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glmc.ir.ops import OPS
from glmc.ir.ops.rotary import rope_table
from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cuda.qkv_rope_cache import candidates, default
from tests.runtime.kernels.cuda.paged import DEVICE, cuts_off, paged, unchanged
from tests.runtime.kernels.harness import close, nan, random
from tests.support.thinned import crossed

EPS, POSITIONS = 1e-5, 40


def frequencies(rotary: int) -> Tensor:
    return 1.0 / 100 ** (torch.arange(0, rotary, 2) / rotary)


def cos_sin(rotary: int, dtype: torch.dtype) -> Tensor:
    """The table of the runtime: of each position cos, then sin."""
    waves = rope_table(torch.arange(POSITIONS), frequencies(rotary), 1.0, dtype)
    return torch.cat(waves, -1).to(DEVICE)


def case(
    tokens: int,
    dtype: torch.dtype = torch.float32,
    rotary: int = 8,
    head_dim: int = 16,
    with_norms: bool = False,
    q_heads: int = 6,
    kv_heads: int = 2,
    interleaved: bool = False,
) -> dict[str, Any]:
    cache = paged([POSITIONS], kv_heads, head_dim, 4, dtype)
    generator = torch.Generator().manual_seed(3)
    weights: list[Tensor | None] = [None, None]
    if with_norms:
        weights = [random(head_dim, dtype=dtype, seed=seed).to(DEVICE) for seed in (7, 8)]
    slots = cache.slots(0, 0, POSITIONS)[torch.randperm(POSITIONS, generator=generator)[:tokens]]
    return {
        "qkv": random(tokens, (q_heads + 2 * kv_heads) * head_dim, dtype=dtype).to(DEVICE),
        "q_norm": weights[0],
        "k_norm": weights[1],
        "norm_eps": EPS,
        "cos_sin": cos_sin(rotary, dtype),
        "positions": torch.randint(POSITIONS, (tokens,), generator=generator).to(DEVICE),
        "slot_mapping": slots,
        "key_cache": cache.keys,
        "value_cache": cache.values,
        "query": nan(tokens, q_heads, head_dim, dtype=dtype).to(DEVICE),
        "interleaved": interleaved,
    }


def check(arguments: dict[str, Any]) -> None:
    """Bit by bit, but for the order of a norm's sum and the interpreter's conversions."""
    before = {name: arguments[name].clone() for name in ("key_cache", "value_cache")}
    query, expected = arguments["query"], reference(arguments)
    find_binder("cuda.qkv_rope_cache")(arguments)()
    is_exact = arguments["q_norm"] is None and not cuts_off(query.dtype)
    slots = arguments["slot_mapping"]
    found = (query, *(rows(arguments[name], slots) for name in before))
    wanted = (expected[0], *(rows(cache, slots) for cache in expected[1:]))
    for one, other in zip(found, wanted, strict=True):
        if is_exact:
            assert torch.equal(one, other)
        else:
            close(one, other)
    for name, old in before.items():
        assert unchanged(arguments[name], old, slots)


def rows(cache: Tensor, slots: Tensor) -> Tensor:
    return cache.transpose(1, 2).reshape(-1, cache.shape[1], cache.shape[3])[slots]


def reference(arguments: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """query and both caches, computed on the CPU: so is the table of cos and sin, whose last bit
    differs on a GPU."""
    query, key_cache = arguments["query"], arguments["key_cache"]
    names = ("qkv", "q_norm", "k_norm", "positions", "slot_mapping", "key_cache", "value_cache")
    on_cpu = {
        name: None if arguments[name] is None else arguments[name].cpu().clone() for name in names
    }
    result: tuple[Tensor, Tensor, Tensor] = OPS["qkv_rope_cache"].reference(
        on_cpu["qkv"],
        on_cpu["q_norm"],
        on_cpu["k_norm"],
        on_cpu["positions"],
        frequencies(arguments["cos_sin"].shape[1]),
        on_cpu["slot_mapping"],
        on_cpu["key_cache"],
        on_cpu["value_cache"],
        query.shape[1],
        key_cache.shape[1],
        query.shape[2],
        arguments["interleaved"],
        1.0,
        EPS,
    )
    found, keys, values = (tensor.to(DEVICE) for tensor in result)
    return found, keys, values


CASES = (
    [torch.float32, torch.bfloat16, torch.float16],
    *([False, True], [False, True], [8, 16], [1, 5]),
)
# Each pair of values once, and of each dtype without a norm, which is bit for bit, both rotations.
QUICK_CASES = (
    *((torch.float32, False, False, 8, 1), (torch.float32, True, False, 16, 5)),
    *((torch.float32, False, True, 16, 5), (torch.float32, True, True, 8, 1)),
    *((torch.bfloat16, False, False, 16, 5), (torch.bfloat16, True, True, 8, 5)),
    *((torch.float16, True, False, 8, 5), (torch.float16, False, True, 16, 1)),
    *((torch.float16, False, False, 8, 5), (torch.bfloat16, True, False, 16, 1)),
)


@pytest.mark.parametrize(
    ("dtype", "interleaved", "with_norms", "rotary", "tokens"), crossed(*CASES, quick=QUICK_CASES)
)
def test_against_reference(
    dtype: torch.dtype, interleaved: bool, with_norms: bool, rotary: int, tokens: int
) -> None:
    check(case(tokens, dtype, rotary, 16, with_norms, interleaved=interleaved))


@pytest.mark.parametrize(
    ("counts", "heads"),
    crossed(
        *([(2, 2), (12, 1), (7, 1)], [1, 4, 16, None]),
        quick=[((2, 2), 1), ((12, 1), 4), ((7, 1), 4), ((7, 1), 16), ((12, 1), None)],
    ),
)
def test_heads_that_do_not_fill_the_programs(counts: tuple[int, int], heads: int | None) -> None:
    q_heads, kv_heads = counts
    arguments = case(3, q_heads=q_heads, kv_heads=kv_heads, with_norms=True)
    if heads is not None:
        arguments["configuration"] = {"HEADS": heads, "num_warps": 1}
    check(arguments)


def test_head_that_is_no_power_of_two() -> None:
    check(case(4, head_dim=40, rotary=12, with_norms=True, interleaved=True))


def test_padded_rows_write_the_scratch_block_only() -> None:
    arguments = case(4)
    arguments["slot_mapping"][2:] = torch.tensor([0, 1])
    arguments["positions"][2:] = 0
    check(arguments)


def test_what_does_not_fit_is_refused() -> None:
    bind = find_binder("cuda.qkv_rope_cache")
    arguments = case(3, with_norms=True)
    with pytest.raises(PlanError, match="together"):
        bind(arguments | {"k_norm": None})
    with pytest.raises(PlanError, match="rope"):
        bind(arguments | {"cos_sin": cos_sin(20, torch.float32)})
    with pytest.raises(PlanError, match="positions"):
        bind(arguments | {"positions": arguments["positions"].int()})


def test_candidates() -> None:
    found = list(candidates(36, 1))
    assert found[0] == default(36, 1)
    assert all(one["HEADS"] <= 64 for one in found)
    assert len({str(one) for one in found}) == len(found)

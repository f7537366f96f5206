"""Norms, SwiGLU, heads and attention in C, with every instruction set of this processor."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cpu.activation import gated
from glmc_runtime.kernels.cpu.norms import rows_norm
from glmc_runtime.kernels.cpu.qkv_rope_cache import split_and_rotate
from tests.runtime.kernels.harness import nan, random, run
from tests.runtime.kernels.instruction_sets import each_instruction_set as each_instruction_set
from tests.runtime.kernels.test_cpu_attention import int32

pytestmark = pytest.mark.usefixtures("each_instruction_set")
ULP = {torch.bfloat16: 2.0**-7, torch.float32: 2.0**-23}  # at most, relative to the number
DTYPES = tuple(ULP)


def require_near(out: Tensor, exact: Tensor, ulps: float) -> None:
    """Each entry within so many units in the last place of what float64 has."""
    assert out.isfinite().all()
    error = (out.double() - exact).abs()
    assert bool((error <= ulps * ULP[out.dtype] * exact.abs() + 1e-30).all()), error.max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 7, 48, 1000, 4096])
@pytest.mark.parametrize("size", [1.0, 1e-4, 200.0])
def test_norms(dtype: torch.dtype, width: int, size: float) -> None:
    """Rounded before the weight and after it: half a unit each, and float32 sums on the way."""
    for rows in (1, 5):
        x = (random(rows, width) * size).to(dtype)
        residual, weight = random(rows, width, dtype=dtype, seed=2), random(width, dtype=dtype)
        for more in (None, residual):
            out, total = nan(rows, width, dtype=dtype), nan(rows, width, dtype=dtype)
            thunk = rows_norm(x, more, weight, total if more is not None else None, out, 1e-5)
            assert thunk is not None
            thunk()
            source = x
            if more is not None:
                source = x + more
                assert torch.equal(total, source)
            wide = source.double()
            exact = weight.double() * wide * torch.rsqrt(wide.square().mean(-1, True) + 1e-5)
            require_near(out, exact, 1.2 if dtype == torch.bfloat16 else 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 7, 40, 513])
def test_gated(dtype: torch.dtype, width: int) -> None:
    for rows in (1, 7):
        both = random(rows, 2 * width, dtype=dtype) * 4
        gate, up = both[:, :width], both[:, width:]
        out = nan(rows, width, dtype=dtype)
        gated(gate, up, out)()
        exact = F.silu(gate.double()) * up.double()
        require_near(out, exact, 1.2 if dtype == torch.bfloat16 else 6)


def test_gated_far_from_zero() -> None:
    gate = torch.tensor([[-1e30, -100.0, -88.0, -0.0, 0.0, 88.0, 100.0, 1e30, torch.inf]])
    out = nan(1, 9)
    gated(gate, torch.ones(1, 9), out)()
    assert torch.equal(out[0, 3:], F.silu(gate[0, 3:]))
    assert bool((out[0, 1:3].abs() < 1e-36).all()) and out[0, 0] == 0
    lowest = torch.tensor([[torch.finfo(torch.float32).min, -torch.inf]])
    out = nan(1, 2)
    gated(lowest, torch.ones(1, 2), out)()
    assert out[0, 0] == 0 and out[0, 1].isnan()
    nothing = torch.full((1, 3), torch.nan)
    gated(nothing, torch.ones(1, 3), nothing)()
    assert nothing.isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2048), (3, 77), (40, 1000)])
def test_add(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """Also where the sum takes the place of a summand, and of numbers that are none."""
    x, y = random(*shape, dtype=dtype), random(*shape, dtype=dtype, seed=2)
    x[0, 0] = torch.inf
    y[-1, -1] = torch.nan
    expected = x + y
    out = nan(*shape, dtype=dtype)
    run("add", by_torch=False, x=x, y=y, out=out)
    find_binder("cpu.add")({"x": x, "y": y, "out": y})()
    for found in (out, y):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("other", [0.5, torch.ones(1, 8), torch.ones(8, 3).t()])
def test_add_of_a_number_or_of_another_form_is_left_to_torch(other: float | Tensor) -> None:
    x, out = random(3, 8), nan(3, 8)
    run("add", by_torch=True, x=x, y=other, out=out)
    assert torch.equal(out, x + other)


ROTATED = [(16, 1), (16, 8), (64, 17), (128, 32), (128, 64), (72, 36)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("head_dim", "half"), ROTATED)
def test_heads_have_the_bits_of_eager_code(
    dtype: torch.dtype, interleaved: bool, head_dim: int, half: int
) -> None:
    """Rotated in part or whole, every remainder of lanes: each product rounded to the dtype."""
    tokens, q_heads, kv_heads = 3, 3, 2
    rotated = q_heads + kv_heads
    arguments = {
        "qkv": random(tokens, (rotated + kv_heads) * head_dim, dtype=dtype),
        "q_norm": None,
        "k_norm": None,
        "cos_sin": random(20, 2 * half, dtype=dtype, seed=2),
        "positions": torch.tensor([3, 0, 19]),
        "slot_mapping": torch.tensor([5, 30, 0]),
        "key_cache": torch.zeros(8, 4, kv_heads, head_dim, dtype=dtype),
        "value_cache": torch.zeros(8, 4, kv_heads, head_dim, dtype=dtype),
        "query": nan(tokens, q_heads, head_dim, dtype=dtype),
        "interleaved": interleaved,
        "norm_eps": 1e-5,
        "table": nan(tokens, 2 * half, dtype=dtype),
        "product": nan(tokens, rotated, half, dtype=dtype),
        "turned": nan(tokens, rotated, head_dim, dtype=dtype),
    }
    find_binder("cpu.qkv_rope_cache")(arguments)()
    names = ("query", "key_cache", "value_cache")
    found = [arguments[name].clone() for name in names]
    for name in names:
        arguments[name].zero_()
    split_and_rotate(arguments, lambda *_: [])()
    for name, ours in zip(names, found, strict=True):
        assert torch.equal(ours, arguments[name]), name


def attended(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """In float64: query [q_heads, head_dim], keys and values [length, kv_heads, head_dim]."""
    group = query.shape[0] // keys.shape[1]
    keys, values = (part.double().repeat_interleave(group, 1) for part in (keys, values))
    weights = torch.einsum("hd,lhd->hl", query.double(), keys).mul(scale).softmax(-1)
    return torch.einsum("hl,lhd->hd", weights, values)


LENGTHS = [1, 3, 255, 256, 257, 700]


def given(dtype: torch.dtype, heads: tuple[int, int], head_dim: int) -> dict[str, object]:
    """Sequences of ``LENGTHS`` whose blocks of 16 lie anywhere; NaN where nobody may look."""
    q_heads, kv_heads = heads
    counts = [-(-length // 16) for length in LENGTHS]
    order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(3)) + 1
    tables = torch.zeros(len(LENGTHS), max(counts), dtype=torch.int32)
    shape = (sum(counts) + 1, 16, kv_heads, head_dim)
    keys, values = nan(*shape, dtype=dtype), nan(*shape, dtype=dtype)
    start = 0
    for row, (length, count) in enumerate(zip(LENGTHS, counts, strict=True)):
        blocks = order[start : start + count]
        tables[row, :count] = blocks.int()
        start += count
        for seed, cache in ((5, keys), (6, values)):
            tokens = random(count * 16, kv_heads, head_dim, dtype=dtype, seed=seed + row)
            tokens[length:] = torch.nan
            cache[blocks] = tokens.view(count, 16, kv_heads, head_dim)
    longest = max(counts) * 16
    return {
        "query": random(len(LENGTHS), q_heads, head_dim, dtype=dtype),
        "key_cache": keys,
        "value_cache": values,
        "block_tables": tables,
        "context_lengths": int32(LENGTHS),
        "scale": head_dim**-0.5,
        "out": nan(len(LENGTHS), q_heads, head_dim, dtype=dtype),
        "scores": nan(q_heads * longest, dtype=dtype),
        "floats": nan(q_heads * longest),
        "total": nan(q_heads, head_dim),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [(8, 2), (6, 2), (5, 5), (9, 1)])
@pytest.mark.parametrize("head_dim", [16, 72, 128])
def test_attention(dtype: torch.dtype, heads: tuple[int, int], head_dim: int) -> None:
    """Contexts of one chunk and of several, whole and cut; every remainder of heads and lanes."""
    arguments = given(dtype, heads, head_dim)
    find_binder("cpu.decode_attention")(arguments)()
    out, tables = arguments["out"], arguments["block_tables"]
    caches = arguments["key_cache"], arguments["value_cache"]
    for row, length in enumerate(LENGTHS):
        keys, values = (cache[tables[row].long()].flatten(0, 1)[:length] for cache in caches)
        exact = attended(arguments["query"][row], keys, values, arguments["scale"])
        error = (out[row].double() - exact).abs().max()
        assert error <= (ULP[dtype] if dtype == torch.bfloat16 else 1e-5), (length, error)


@pytest.mark.usefixtures("threads")
def test_attention_has_the_same_bits_with_any_number_of_threads() -> None:
    found = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        arguments = given(torch.bfloat16, (8, 2), 64)
        find_binder("cpu.decode_attention")(arguments)()
        found.append(arguments["out"])
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("name", "value"), [("block_tables", 500), ("block_tables", -1), ("context_lengths", 10_000)]
)
def test_what_is_beyond_the_cache_is_an_error(name: str, value: int) -> None:
    arguments = given(torch.float32, (4, 2), 16)
    arguments[name].view(-1)[0] = value
    with pytest.raises(IndexError):
        find_binder("cpu.decode_attention")(arguments)()


@pytest.mark.parametrize(
    ("name", "value"),
    [("positions", 20), ("positions", -1), ("slot_mapping", 32), ("slot_mapping", -1)],
)
def test_a_head_without_a_place_is_an_error(name: str, value: int) -> None:
    arguments = {
        "qkv": random(1, 4 * 16),
        "q_norm": None,
        "k_norm": None,
        "cos_sin": random(20, 16),
        "positions": torch.tensor([3]),
        "slot_mapping": torch.tensor([5]),
        "key_cache": torch.zeros(8, 4, 1, 16),
        "value_cache": torch.zeros(8, 4, 1, 16),
        "query": nan(1, 2, 16),
        "interleaved": True,
        "norm_eps": 1e-5,
        "table": nan(1, 16),
        "product": nan(1, 3, 8),
        "turned": nan(1, 3, 16),
    }
    thunk = find_binder("cpu.qkv_rope_cache")(arguments)
    thunk()
    arguments[name].fill_(value)
    with pytest.raises(IndexError):
        thunk()

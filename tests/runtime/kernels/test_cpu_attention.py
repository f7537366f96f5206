"""Rotation, cache write, and attention over paged caches, contiguous and scattered."""

from __future__ import annotations

import pytest
import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cpu.runs import find_runs, shared_runs
from tests.runtime.counting import FreshStorage
from tests.runtime.kernels.harness import FLOATS, by_torch_alone, close, nan, random, run
from tests.runtime.kernels.test_cpu_dense import rms_norm

BLOCK, HEAD = 4, 16
CONTIGUOUS = [[1, 2, 3, 4], [5, 6, 7, 8]]
SCATTERED = [[9, 2, 3, 11], [7, 6, 5, 4]]


@pytest.fixture(params=["ours", "torch"])
def either(request: pytest.FixtureRequest) -> None:
    """By the kernel in C, and by torch's."""
    if request.param == "torch":
        request.getfixturevalue("by_torch")


def int32(values: list[int] | list[list[int]]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def rope(x: torch.Tensor, table: torch.Tensor, interleaved: bool) -> torch.Tensor:
    rotary = table.shape[-1]
    cos, sin = table[:, None, : rotary // 2], table[:, None, rotary // 2 :]
    if interleaved:
        first, second = x[..., 0:rotary:2], x[..., 1:rotary:2]
    else:
        first, second = x[..., :rotary].chunk(2, -1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    merged = torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)
    return torch.cat((merged, x[..., rotary:]), -1)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("with_norms", [False, True])
@pytest.mark.parametrize("rotary", [HEAD // 2, HEAD])
@pytest.mark.parametrize("tokens", [1, 5])
def test_qkv_rope_cache_rounds_as_eager_code_does(
    dtype: torch.dtype, interleaved: bool, with_norms: bool, rotary: int, tokens: int
) -> None:
    q_heads, kv_heads = 6, 2
    qkv = random(tokens, (q_heads + 2 * kv_heads) * HEAD, dtype=dtype)
    cos_sin = random(20, rotary, dtype=dtype, seed=2)
    positions = torch.tensor([19, 0, 3, 3, 7][:tokens])
    slots = torch.tensor([13, 4, 27, 30, 9][:tokens])
    q_norm = random(HEAD, dtype=dtype, seed=3) if with_norms else None
    k_norm = random(HEAD, dtype=dtype, seed=4) if with_norms else None
    caches = [torch.zeros(8, BLOCK, kv_heads, HEAD, dtype=dtype) for _ in range(2)]
    query, rows = nan(tokens, q_heads, HEAD, dtype=dtype), (tokens, q_heads + kv_heads)
    run(
        "qkv_rope_cache",
        qkv=qkv,
        q_norm=q_norm,
        k_norm=k_norm,
        cos_sin=cos_sin,
        positions=positions,
        slot_mapping=slots,
        key_cache=caches[0],
        value_cache=caches[1],
        query=query,
        interleaved=interleaved,
        norm_eps=1e-5,
        table=nan(tokens, rotary, dtype=dtype),
        product=nan(*rows, rotary // 2, dtype=dtype),
        turned=nan(*rows, HEAD, dtype=dtype),
        normed=nan(*rows, HEAD, dtype=dtype),
        hidden=nan(*rows, HEAD),
        square=nan(*rows, HEAD),
        variance=nan(*rows, 1),
    )
    q, k, v = (
        part.view(tokens, -1, HEAD)
        for part in qkv.split([q_heads * HEAD, kv_heads * HEAD, kv_heads * HEAD], -1)
    )
    if q_norm is not None and k_norm is not None:
        q, k = rms_norm(q, q_norm, 1e-5), rms_norm(k, k_norm, 1e-5)
    expected = [torch.zeros_like(cache) for cache in caches]
    expected[0].view(-1, kv_heads, HEAD)[slots] = rope(k, cos_sin[positions], interleaved)
    expected[1].view(-1, kv_heads, HEAD)[slots] = v
    assert torch.equal(caches[1], expected[1])
    rotated = (query, rope(q, cos_sin[positions], interleaved)), (caches[0], expected[0])
    for found, wanted in rotated:
        if with_norms and not by_torch_alone("qkv_rope_cache", dtype):
            close(found, wanted)  # a norm's sum has an order of its own
        else:
            assert torch.equal(found, wanted)


def context(cache: torch.Tensor, blocks: list[int], length: int) -> torch.Tensor:
    return cache[torch.tensor(blocks)].flatten(0, 1)[:length].double()


def attend(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """q [new, q_heads, head_dim] at the end of keys and values [length, kv_heads, head_dim]."""
    group = q.shape[1] // keys.shape[1]
    keys, values = (tensor.repeat_interleave(group, 1) for tensor in (keys, values))
    scores = torch.einsum("qhd,khd->hqk", q.double(), keys) * scale
    visible = torch.ones(scores.shape[1:], dtype=torch.bool).tril(keys.shape[0] - q.shape[0])
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, values)


def poisoned_caches(
    dtype: torch.dtype, tables: list[list[int]], lengths: list[int], kv_heads: int
) -> list[torch.Tensor]:
    """Caches with NaN wherever no token of these sequences lies."""
    caches = [nan(12, BLOCK, kv_heads, HEAD, dtype=dtype) for _ in range(2)]
    for seed, cache in enumerate(caches):
        slots = cache.view(-1, kv_heads, HEAD)
        fresh = random(*slots.shape, dtype=dtype, seed=seed + 7)
        for blocks, length in zip(tables, lengths, strict=True):
            for position in range(length):
                slot = blocks[position // BLOCK] * BLOCK + position % BLOCK
                slots[slot] = fresh[slot]
    return caches


def decode_arguments(
    dtype: torch.dtype, tables: list[list[int]], lengths: list[int], heads: tuple[int, int]
) -> dict[str, object]:
    q_heads, kv_heads = heads
    key_cache, value_cache = poisoned_caches(dtype, tables, lengths, kv_heads)
    size = q_heads * len(tables[0]) * BLOCK
    return {
        "query": random(len(tables), q_heads, HEAD, dtype=dtype),
        "key_cache": key_cache,
        "value_cache": value_cache,
        "block_tables": int32(tables),
        "context_lengths": int32(lengths),
        "scale": HEAD**-0.5,
        "out": nan(len(tables), q_heads, HEAD, dtype=dtype),
        "scores": nan(size, dtype=dtype),
        "floats": nan(size),
        "total": nan(q_heads, HEAD),
    }


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("tables", [CONTIGUOUS, SCATTERED])
@pytest.mark.parametrize("lengths", [[1, 1], [BLOCK, BLOCK + 1], [16, 7], [2, 13]])
@pytest.mark.parametrize("heads", [(6, 2), (4, 4), (8, 1)])
def test_decode_attention(
    dtype: torch.dtype, tables: list[list[int]], lengths: list[int], heads: tuple[int, int]
) -> None:
    arguments = decode_arguments(dtype, tables, lengths, heads)
    run("decode_attention", **arguments)
    for row, (blocks, length) in enumerate(zip(tables, lengths, strict=True)):
        keys, values = (context(arguments[f"{n}_cache"], blocks, length) for n in ("key", "value"))
        expected = attend(arguments["query"][row : row + 1], keys, values, HEAD**-0.5)
        close(arguments["out"][row : row + 1], expected)


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("tables", [CONTIGUOUS, SCATTERED])
def test_decode_attention_copies_no_context_inside_aten(
    dtype: torch.dtype, tables: list[list[int]]
) -> None:
    """Below the dispatcher too: ATen itself must not clone a strided operand."""
    thunk = find_binder("cpu.decode_attention")(decode_arguments(dtype, tables, [16, 7], (6, 2)))
    thunk()
    with torch.autograd.profiler.profile() as profile:
        thunk()
    names = {event.name for event in profile.function_events}
    assert names & {"aten::mm", "aten::addmm"}
    assert not names & {"aten::clone", "aten::contiguous", "aten::empty_like"}


@pytest.mark.usefixtures("either")
def test_decode_attention_follows_lengths_and_tables_between_calls() -> None:
    arguments = decode_arguments(torch.float32, CONTIGUOUS, [16, 16], (4, 2))
    thunk = find_binder("cpu.decode_attention")(arguments)
    thunk()
    for tables, lengths in (([[4, 2, 1, 3], [5, 6, 7, 8]], [9, 16]), (CONTIGUOUS, [3, 5])):
        arguments["block_tables"].copy_(int32(tables))
        arguments["context_lengths"].copy_(int32(lengths))
        thunk()
        for row, (blocks, length) in enumerate(zip(tables, lengths, strict=True)):
            keys, values = (
                context(arguments[f"{n}_cache"], blocks, length) for n in ("key", "value")
            )
            expected = attend(arguments["query"][row : row + 1], keys, values, HEAD**-0.5)
            close(arguments["out"][row : row + 1], expected)


def batch_scratch(arguments: dict[str, object], most: int) -> dict[str, torch.Tensor]:
    query, cache = arguments["query"], arguments["key_cache"]
    sequences, q_heads, head = query.shape
    scores = sequences * q_heads * most
    return {
        "batch_context": nan(sequences * cache.shape[2] * most * head, dtype=query.dtype),
        "batch_scores": nan(scores, dtype=query.dtype),
        "batch_floats": nan(scores),
    }


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("tables", [CONTIGUOUS, SCATTERED])
@pytest.mark.parametrize("lengths", [[1, 1], [BLOCK, BLOCK + 1], [12, 7], [1, 11], [16, 7]])
@pytest.mark.parametrize("heads", [(6, 2), (4, 4), (8, 1)])
def test_short_contexts_are_one_batch(
    dtype: torch.dtype, tables: list[list[int]], lengths: list[int], heads: tuple[int, int]
) -> None:
    """The last lengths don't fit, so the loop does them. NaN lies beyond every context."""
    arguments = decode_arguments(dtype, tables, lengths, heads)
    arguments |= batch_scratch(arguments, 3 * BLOCK)
    run("decode_attention", **arguments)
    assert torch.isnan(arguments["batch_floats"]).all() == (max(lengths) > 3 * BLOCK)
    for row, (blocks, length) in enumerate(zip(tables, lengths, strict=True)):
        keys, values = (context(arguments[f"{n}_cache"], blocks, length) for n in ("key", "value"))
        expected = attend(arguments["query"][row : row + 1], keys, values, HEAD**-0.5)
        close(arguments["out"][row : row + 1], expected)


@pytest.mark.usefixtures("by_torch")
def test_a_batch_follows_lengths_and_tables_without_allocating() -> None:
    arguments = decode_arguments(torch.float32, CONTIGUOUS, [16, 16], (4, 2))
    arguments |= batch_scratch(arguments, 3 * BLOCK)
    thunk = find_binder("cpu.decode_attention")(arguments)
    thunk()
    for tables, lengths in (
        (CONTIGUOUS, [3, 5]),
        ([[4, 2, 1, 3], [5, 6, 7, 8]], [9, 16]),
        ([[4, 2, 1, 3], [8, 6, 7, 5]], [9, 12]),
    ):
        arguments["block_tables"].copy_(int32(tables))
        arguments["context_lengths"].copy_(int32(lengths))
        with FreshStorage() as counter:
            thunk()
        assert not counter.fresh
        for row, (blocks, length) in enumerate(zip(tables, lengths, strict=True)):
            keys, values = (
                context(arguments[f"{n}_cache"], blocks, length) for n in ("key", "value")
            )
            expected = attend(arguments["query"][row : row + 1], keys, values, HEAD**-0.5)
            close(arguments["out"][row : row + 1], expected)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("change", ["batch_context", "batch_scores", "batch_floats"])
def test_batch_scratch_of_the_wrong_size_is_refused(change: str) -> None:
    arguments = decode_arguments(torch.float32, CONTIGUOUS, [1, 1], (4, 2))
    arguments |= batch_scratch(arguments, 3 * BLOCK)
    arguments[change] = arguments[change][1:]
    with pytest.raises(PlanError):
        find_binder("cpu.decode_attention")(arguments)


@pytest.mark.usefixtures("either")
def test_equal_scores_give_the_mean() -> None:
    arguments = decode_arguments(torch.float32, CONTIGUOUS, [6, 9], (4, 2))
    arguments["query"].zero_()
    run("decode_attention", **arguments)
    mean = context(arguments["value_cache"], CONTIGUOUS[1], 9).mean(0).repeat_interleave(2, 0)
    close(arguments["out"][1], mean)


@pytest.mark.usefixtures("either")
def test_huge_scores_do_not_overflow() -> None:
    arguments = decode_arguments(torch.float32, CONTIGUOUS, [16, 16], (4, 2))
    arguments["query"].mul_(1e4)
    run("decode_attention", **arguments)
    assert torch.isfinite(arguments["out"]).all()


def test_runs_are_maximal_and_shared() -> None:
    assert find_runs([3, 4, 5], 9, BLOCK) == ((12, 9),)
    assert find_runs([3, 5, 4], 12, BLOCK) == ((12, 4), (20, 4), (16, 4))
    assert find_runs([3, 0, 0], 4, BLOCK) == ((12, 4),)
    tables, lengths = int32(CONTIGUOUS), int32([5, 8])
    runs = shared_runs(tables, lengths, BLOCK)
    assert shared_runs(tables, lengths, BLOCK) is runs
    assert runs.current() is runs.current()


def test_no_run_begins_before_the_cache() -> None:
    with pytest.raises(IndexError, match="block -1 of a sequence is negative"):
        find_runs([3, -1], 5, BLOCK)
    assert find_runs([3, -1], 4, BLOCK) == ((12, 4),)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("tables", [CONTIGUOUS, SCATTERED])
@pytest.mark.parametrize(
    ("new", "cached"),
    [([5, 3], [0, 0]), ([1, 4], [8, 5]), ([3, 0], [2, 0]), ([0, 3], [5, 0]), ([0, 3], [0, 2])],
)
def test_prefill_attention(
    dtype: torch.dtype, tables: list[list[int]], new: list[int], cached: list[int]
) -> None:
    q_heads, kv_heads, tokens = 6, 2, 10
    lengths = [more + old for more, old in zip(new, cached, strict=True)]
    caches = poisoned_caches(dtype, tables, lengths, kv_heads)
    query, out = random(tokens, q_heads, HEAD, dtype=dtype), nan(tokens, q_heads, HEAD, dtype=dtype)
    run(
        "prefill_attention",
        allocates=True,
        query=query,
        key_cache=caches[0],
        value_cache=caches[1],
        block_tables=int32(tables),
        cu_seqlens_q=int32([0, new[0], sum(new)]),
        cu_seqlens_k=int32([0, lengths[0], sum(lengths)]),
        scale=HEAD**-0.5,
        out=out,
    )
    start = 0
    for row, count in enumerate(new):
        if count:
            keys, values = (context(cache, tables[row], lengths[row]) for cache in caches)
            expected = attend(query[start : start + count], keys, values, HEAD**-0.5)
            close(out[start : start + count], expected)
        start += count
    assert torch.equal(out[start:], torch.zeros_like(out[start:]))


@pytest.mark.parametrize(
    ("queries", "tokens"),
    [
        ([1, 5, 8], [0, 5, 8]),
        ([-1, 5, 8], [0, 5, 8]),
        ([0, -2, 8], [0, 5, 13]),
        ([0, 5, 11], [0, 5, 11]),
        ([0, 5, 3], [0, 5, 8]),
        ([0, 5, 8], [0, 4, 8]),
        ([0, 5, 8], [0, 5, 0]),
    ],
)
def test_queries_that_are_no_last_tokens_are_an_error(
    queries: list[int], tokens: list[int]
) -> None:
    caches = poisoned_caches(torch.float32, CONTIGUOUS, [5, 3], 2)
    out = nan(10, 6, HEAD, dtype=torch.float32)
    thunk = find_binder("cpu.prefill_attention")(
        {
            "query": random(10, 6, HEAD),
            "key_cache": caches[0],
            "value_cache": caches[1],
            "block_tables": int32(CONTIGUOUS),
            "cu_seqlens_q": int32(queries),
            "cu_seqlens_k": int32(tokens),
            "scale": HEAD**-0.5,
            "out": out,
        }
    )
    with pytest.raises(IndexError, match=r"beside 10 rows|its queries to be the last of its"):
        thunk()
    assert out.isnan().all()


def test_heads_that_do_not_divide_are_refused() -> None:
    arguments = decode_arguments(torch.float32, CONTIGUOUS, [1, 1], (4, 2))
    arguments["query"] = arguments["out"] = random(2, 3, HEAD)
    with pytest.raises(PlanError, match="multiple"):
        find_binder("cpu.decode_attention")(arguments)

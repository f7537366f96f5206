"""Attention of packed sequences, with and without prefixes, in every variant the device has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glmc.ir.ops import OPS
from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cuda.attention import prefill as module
from glmc_runtime.kernels.cuda.attention.packed_bounds import PackedStep, packed_step
from tests.runtime.kernels.cuda.paged import DEVICE, eager, int32, not_worse, paged
from tests.runtime.kernels.harness import close, nan, random
from tests.support.thinned import crossed

SCALE = 0.21
OWNER = type("Owner", (), {})()
SMALL = {"variant": "triton", "ROWS": 16, "BLOCK": 16, "num_warps": 4, "num_stages": 2}
VARIANTS = [SMALL] if DEVICE.type == "cpu" else [SMALL, {"variant": "flash"}, {"variant": "cudnn"}]


def case(
    sequences: list[tuple[int, int]],
    padding: int = 0,
    q_heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    block_size: int = 4,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """``sequences`` are (queries, prefix); ``padding`` rows follow."""
    lengths = [queries + prefix for queries, prefix in sequences]
    cache = paged(lengths, kv_heads, head_dim, block_size, dtype, room=70)
    tokens = sum(queries for queries, _ in sequences) + padding
    query = random(tokens, q_heads, head_dim, dtype=dtype).to(DEVICE)
    query[tokens - padding :] = torch.nan
    arguments = {
        "query": query,
        "key_cache": cache.keys,
        "value_cache": cache.values,
        "block_tables": cache.tables,
        "scale": SCALE,
        "out": nan(*query.shape, dtype=dtype).to(DEVICE),
    }
    for name in ("cu_seqlens_q", "cu_seqlens_k"):
        arguments[f"{name}_host"] = torch.zeros(len(sequences) + 1, dtype=torch.int32)
        arguments[name] = int32([0] * (len(sequences) + 1))
    set_lods(arguments, sequences)
    return arguments


def set_lods(arguments: dict[str, Any], sequences: list[tuple[int, int]]) -> None:
    queries = torch.tensor([0, *(count for count, _ in sequences)]).cumsum(0)
    contexts = torch.tensor([0, *(sum(pair) for pair in sequences)]).cumsum(0)
    for name, cu_seqlens in (("cu_seqlens_q", queries), ("cu_seqlens_k", contexts)):
        arguments[f"{name}_host"].copy_(cu_seqlens)
        arguments[name].copy_(cu_seqlens)


def reference(arguments: dict[str, Any], dtype: torch.dtype | None = None) -> Tensor:
    names = ("query", "key_cache", "value_cache")
    operands = [arguments[name].to(dtype or arguments[name].dtype) for name in names]
    bounds = (arguments["cu_seqlens_q"], arguments["cu_seqlens_k"])
    out: Tensor = OPS["prefill_attention"].reference(
        *operands, arguments["block_tables"], *bounds, SCALE
    )
    return out


def check(arguments: dict[str, Any], configuration: dict[str, Any] | None = SMALL) -> None:
    out, caches = arguments["out"], ("key_cache", "value_cache")
    before = [arguments[name].clone() for name in caches]
    find_binder("cuda.prefill_attention")(arguments | {"configuration": configuration})()
    if out.dtype == torch.float32:
        close(out, reference(arguments))
    else:
        pair = (arguments["key_cache"], arguments["value_cache"])
        counts = [arguments[f"cu_seqlens_{name}_host"].diff().tolist() for name in ("q", "k")]
        theirs = eager(arguments["query"], pair, arguments["block_tables"], *counts, SCALE)
        not_worse(out, theirs, reference(arguments, torch.float64))
    rest = out[int(arguments["cu_seqlens_q_host"][-1]) :]
    assert not rest.any()
    for name, old in zip(caches, before, strict=True):
        torch.testing.assert_close(arguments[name], old, rtol=0, atol=0, equal_nan=True)


SEQUENCES = (
    *([(1, 0)], [(5, 0)], [(33, 0)], [(1, 20)], [(17, 15)]),
    *([(3, 0), (20, 7), (1, 40)], [(0, 0), (6, 2), (0, 9), (16, 0)]),
)
# Padding changes nothing of the rows before it: each has it or not.
QUICK_SEQUENCES = list(zip(SEQUENCES, [0, 5, 0, 5, 0, 0, 5], strict=True))
NARROW = ([(40, 0)], [(0, 0), (21, 0)], [(20, 11), (5, 0)], [(1, 5)])
HALVES = (torch.float16, torch.bfloat16)


@pytest.mark.parametrize(
    ("sequences", "padding"), crossed(SEQUENCES, [0, 5], quick=QUICK_SEQUENCES)
)
def test_sequences(sequences: list[tuple[int, int]], padding: int) -> None:
    check(case(sequences, padding))


@pytest.mark.parametrize(
    ("q_heads", "kv_heads", "head_dim", "block_size"), [(12, 1, 16, 16), (2, 2, 40, 1)]
)
def test_shapes(q_heads: int, kv_heads: int, head_dim: int, block_size: int) -> None:
    check(case([(9, 0), (18, 3)], 1, q_heads, kv_heads, head_dim, block_size))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: str(variant["variant"]))
@pytest.mark.parametrize(
    ("sequences", "dtype"),
    crossed(NARROW, HALVES, quick=list(zip(NARROW, HALVES * 2, strict=True))),
)
def test_narrow_dtypes(
    variant: dict[str, Any], dtype: torch.dtype, sequences: list[tuple[int, int]]
) -> None:
    check(case(sequences, 3, head_dim=64, dtype=dtype), variant)


def test_default_configuration() -> None:
    check(case([(30, 5), (4, 0)], 2), None)


def test_lods_are_read_when_it_runs() -> None:
    arguments = case([(20, 0), (10, 30)], 4)
    thunk = find_binder("cuda.prefill_attention")(arguments | {"configuration": SMALL})
    for sequences in ([(20, 0), (10, 30)], [(7, 13), (1, 0)], [(0, 5), (0, 0)]):
        set_lods(arguments, sequences)
        arguments["out"].fill_(torch.nan)
        thunk()
        close(arguments["out"], reference(arguments))


MIXED = [(1, 40), (9, 3), (1, 0), (0, 7), (1, 69), (4, 0)]


def test_a_mixed_step_by_two_kernels() -> None:
    arguments = case(MIXED, 2)
    check(arguments)
    step = step_of(arguments)
    assert (step.singles, step.others, step.tokens, step.alone) == (3, 2, 16, False)
    # Single ones and padding have no context there, those without queries are left out.
    assert step.bounds == ([0, 1, 10, 12, 16, 18], [0, 0, 12, 12, 16, 16])
    assert step.rows.tolist() == [0, 1, 2, 5, 0]
    assert (step.cu_seqlens_q.tolist(), step.cu_seqlens_k.tolist()) == step.bounds
    parts = (step.cu_seqlens_q, step.cu_seqlens_k, step.rows)
    assert all(part.data_ptr() % 16 == 0 for part in parts)
    assert step_of(arguments) is step
    arguments["cu_seqlens_k_host"][-1] += 1
    assert step_of(arguments) is not step


def test_padding_after_a_single_sequence_is_one_with_it() -> None:
    arguments = case([(4, 0), (1, 3)], 2)
    check(arguments)
    assert step_of(arguments).bounds == ([0, 4, 7], [0, 4, 4])


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: str(variant["variant"]))
def test_a_mixed_step_in_narrow_dtypes(variant: dict[str, Any]) -> None:
    if variant["variant"] != "cudnn":  # which takes one sequence alone
        check(case(MIXED, 1, 16, 1, 128, 16, torch.bfloat16), variant)


def step_of(arguments: dict[str, Any]) -> PackedStep:
    bounds = (arguments[f"cu_seqlens_{name}_host"] for name in "qk")
    return packed_step(*bounds, len(arguments["query"]), DEVICE, OWNER)


@pytest.mark.parametrize(
    ("sequences", "gathered", "least"),
    [([(3, 4), (1, 9), (2, 0)], (0, 2), 0), ([(0, 9), (3, 17)], (1,), 30)],
)
def test_gather(sequences: list[tuple[int, int]], gathered: tuple[int, ...], least: int) -> None:
    arguments = case(sequences)
    call = module._Call.of(arguments, SMALL)
    keys, values = module._gather(call, step_of(arguments), least)
    for found, cache in ((keys, arguments["key_cache"]), (values, arguments["value_cache"])):
        wanted = [
            cache[block, :, position % 4]
            for index in gathered
            for position in range(sum(sequences[index]))
            for block in [int(arguments["block_tables"][index, position // 4])]
        ]
        assert torch.equal(found[: len(wanted)], torch.stack(wanted))
        assert len(found) == max(len(wanted), least)
        assert not found[len(wanted) :].any()


def own_paged_attention(
    query: Tensor, key_cache: Tensor, value_cache: Tensor, out: Tensor, **options: Any
) -> None:
    """What a library does, by the reference; caches as libraries have them."""
    lengths = options["lengths"].tolist()
    assert (options["longest_query"], options["longest_context"]) == (
        int(options["cu_seqlens_q"].diff().max()),
        max(lengths),
    )
    contexts = torch.tensor([0, *lengths]).cumsum(0).to(options["lengths"])
    caches = (key_cache.transpose(1, 2), value_cache.transpose(1, 2))
    bounds = (options["cu_seqlens_q"], contexts)
    result = OPS["prefill_attention"].reference(
        query, *caches, options["block_tables"], *bounds, options["scale"]
    )
    out.copy_(result)


@pytest.fixture
def paged_library(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A library that reads a paged cache, on a device that has libraries; tokens of its calls."""
    tokens: list[int] = []

    def attention(query: Tensor, *caches: Tensor, **options: Any) -> None:
        tokens.append(len(query))
        own_paged_attention(query, *caches, **options)

    monkeypatch.setattr(module, "library_variant", lambda query: "cudnn")
    monkeypatch.setattr(module, "_cudnn", lambda call, step: tokens.append(0))
    monkeypatch.setattr(module, "offered_paged_attention", lambda: attention)
    return tokens


@pytest.mark.parametrize("padding", [0, 3])
def test_a_library_that_reads_the_cache_takes_all_sequences(
    paged_library: list[int], padding: int
) -> None:
    check(case([(1, 40), (9, 3), (1, 0), (4, 0), (0, 0)], padding), None)
    assert paged_library == [15]
    check(case([(1, 4), (1, 9)], padding), None)
    check(case([(5, 4)], padding), None)
    assert paged_library == [15, 2, 5]


def test_what_it_is_not_asked_for(paged_library: list[int]) -> None:
    find_binder("cuda.prefill_attention")(case([(9, 0)]))()
    assert paged_library == [0]  # cuDNN's
    check(case([(2, 1), (0, 4), (3, 3)]), SMALL)
    assert step_of(case([(2, 1), (0, 4), (3, 3)])).in_place is None
    assert paged_library == [0]


def test_what_cudnn_refuses_goes_to_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, calls = case([(9, 0)]), []
    error: RuntimeError = RuntimeError("cuDNN Frontend error: no engine")

    def refuse(*_: object) -> None:
        calls.append("cudnn")
        raise error

    monkeypatch.setattr(module, "library_variant", lambda query: "cudnn")
    monkeypatch.setattr(module, "_cudnn", refuse)
    monkeypatch.setattr(module, "_flash", lambda *_: calls.append("flash"))
    thunk = find_binder("cuda.prefill_attention")(arguments)
    with pytest.warns(UserWarning, match="no engine, so flash attention"):
        thunk()
    thunk()
    assert calls == ["cudnn", "flash", "flash"]
    with pytest.raises(RuntimeError, match="engine"):
        check(arguments, {"variant": "cudnn"})
    for error in (torch.cuda.OutOfMemoryError("cuDNN: out of memory"), RuntimeError("a bug")):
        thunk = find_binder("cuda.prefill_attention")(arguments)
        for _ in range(2):  # what fails for another reason is tried again
            calls.clear()
            with pytest.raises(RuntimeError, match=str(error)):
                thunk()
            assert calls == ["cudnn"]


@pytest.mark.parametrize(
    ("sequences", "alone"),
    [([(0, 3), (5, 0)], True), ([(0, 3), (5, 1)], False), ([(1, 0), (4, 0)], False)],
)
@pytest.mark.parametrize("padding", [0, 2])
def test_variant_of_a_step(sequences: list[tuple[int, int]], alone: bool, padding: int) -> None:
    step = step_of(case(sequences, padding))
    assert module.choose_variant("cudnn", step) == ("cudnn" if alone else "flash")
    assert module.choose_variant("flash", step) == "flash"


def test_variant_of_a_device() -> None:
    assert module.library_variant(torch.empty(1, 4, 64)) == "triton"


def test_what_does_not_fit_is_refused() -> None:
    arguments = case([(3, 0)])
    with pytest.raises(PlanError, match="variant"):
        check(arguments, {"variant": "eager"})
    with pytest.raises(PlanError, match="cu_seqlens_k"):
        check(arguments | {"cu_seqlens_k": int32([0, 3, 3])})

"""Experts of one rank: as the reference, whatever part of the ids is another's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmc.ir.ops.moe import local_moe_ffn, moe_ffn
from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cpu import decode_library
from tests.runtime.kernels.harness import FLOATS, close, nan, random, require_compiler, run

HIDDEN, EXPERTS, ALL, TOP_K, WIDTH = 24, 6, 16, 4, 12
OPERANDS = ("x", "weights", "ids", "gate_up", "down", "first")


def arguments(ids: torch.Tensor, dtype: torch.dtype, first: int = 4) -> dict[str, Any]:
    """Those of all kernels; experts ``first`` to ``first + EXPERTS`` of ALL are here."""
    tokens, top_k = ids.shape
    rows = tokens * top_k
    integers = ("local_ids", "sorted_ids", "order", "rows")
    return {
        "x": random(tokens, HIDDEN, dtype=dtype),
        "weights": random(tokens, top_k, seed=2).abs(),
        "ids": ids,
        "gate_up": (random(EXPERTS, 2 * WIDTH, HIDDEN, seed=3) / HIDDEN**0.5).to(dtype),
        "down": (random(EXPERTS, HIDDEN, WIDTH, seed=4) / WIDTH**0.5).to(dtype),
        "first": torch.tensor([first]),
        "out": nan(tokens, HIDDEN, dtype=dtype),
        "gathered": nan(rows, HIDDEN, dtype=dtype),
        "results": nan(rows, HIDDEN, dtype=dtype),
        "merged": nan(rows, 2 * WIDTH, dtype=dtype),
        "activated": nan(rows, WIDTH, dtype=dtype),
        "products": nan(rows, HIDDEN),
        "scales": nan(rows),
        "total": nan(tokens, HIDDEN),
        **{name: torch.full((rows,), -7) for name in integers},
    }


def choices(kind: str, tokens: int) -> torch.Tensor:
    if kind == "all foreign":
        return torch.tensor([[0, 3, 10, 15]]).repeat(tokens, 1)
    if kind == "none foreign":
        return torch.tensor([[9, 4, 5, 8]]).repeat(tokens, 1)
    if kind == "hostile":
        wild = torch.tensor([[-1, 1 << 40, -(1 << 62), 5]])
        return wild.repeat(tokens, 1)
    generator = torch.Generator().manual_seed(tokens)
    return torch.stack([torch.randperm(ALL, generator=generator)[:TOP_K] for _ in range(tokens)])


KINDS = ("random", "all foreign", "none foreign", "hostile")


def check(given: dict[str, Any]) -> None:
    close(given["out"], local_moe_ffn(*(given[name] for name in OPERANDS)))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("tokens", [1, 2, 16, 37])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ours", [False, True])
def test_experts(
    dtype: torch.dtype, tokens: int, kind: str, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ``ours`` in C, or by torch's products of each expert."""
    if not ours:
        monkeypatch.setattr(decode_library, "_library", lambda: None)
    given = arguments(choices(kind, tokens), dtype)
    by_torch = not ours or dtype not in decode_library.KINDS or decode_library._library() is None
    run("local_moe_ffn", by_torch=by_torch, **given)
    check(given)


@pytest.mark.parametrize("name", ["cpu.local_moe_ffn", "ordered.local_moe_ffn"])
@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_a_call_follows_ids_and_place_between_runs(name: str, tokens: int) -> None:
    require_compiler(name)
    given = arguments(choices("random", 5)[:tokens], torch.float32)
    thunk = find_binder(name)(given)
    thunk()
    check(given)
    for kind, first in zip(KINDS, (10, 0, 4, 4), strict=True):
        given["ids"].copy_(choices(kind, 5)[:tokens])
        given["first"].fill_(first)
        thunk()
        check(given)


@pytest.mark.parametrize("kind", KINDS)
def test_ordered_experts_have_the_same_bits_in_any_company(kind: str) -> None:
    name = "ordered.local_moe_ffn"
    require_compiler(name)
    many = arguments(choices(kind, 19), torch.float32)
    find_binder(name)(many)()
    check(many)
    for token in (0, 7, 18):
        alone = arguments(many["ids"][token : token + 1].clone(), torch.float32)
        for operand in ("x", "weights"):
            alone[operand].copy_(many[operand][token : token + 1])
        find_binder(name)(alone)()
        assert torch.equal(alone["out"][0], many["out"][token])


@pytest.mark.parametrize("name", ["cpu.local_moe_ffn", "ordered.local_moe_ffn"])
def test_ranks_together_are_the_whole(name: str) -> None:
    require_compiler(name)
    ids = choices("random", 9) % (2 * EXPERTS)
    parts, weights = [], []
    for rank in range(2):
        given = arguments(ids, torch.float32, rank * EXPERTS)
        given["gate_up"].mul_(rank + 1)
        find_binder(name)(given)()
        parts.append(given["out"])
        weights.append((given["gate_up"], given["down"]))
    whole = (torch.cat(each) for each in zip(*weights, strict=True))
    close(parts[0] + parts[1], moe_ffn(given["x"], given["weights"], ids, *whole))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": torch.tensor([4, 5])}, "'first' has the wrong shape"),
        ({"first": torch.tensor([4], dtype=torch.int32)}, "dtype of 'first'"),
        ({"ids": torch.zeros(3, TOP_K, dtype=torch.int32)}, "dtype of 'ids'"),
        ({"weights": torch.zeros(2, TOP_K)}, "'weights' has the wrong shape"),
        ({"down": torch.zeros(EXPERTS + 1, HIDDEN, WIDTH)}, "'gate_up' has the wrong shape"),
        ({"gate_up": torch.zeros(1).half()}, "dtype of 'gate_up'"),
    ],
)
@pytest.mark.parametrize("name", ["cpu.local_moe_ffn", "ordered.local_moe_ffn"])
def test_what_does_not_fit_is_refused(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        find_binder(name)(arguments(choices("random", 3), torch.float32) | change)

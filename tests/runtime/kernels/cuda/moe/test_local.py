"""Experts of one rank by every variant: pairs of others' experts are skipped, whatever is there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmc.ir.ops.moe import local_moe_ffn
from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cuda.moe import select
from glmc_runtime.kernels.cuda.moe.common import read_call
from tests.runtime.kernels.cuda.moe.test_select import (
    BY_EXPERT,
    BY_TOKEN,
    DEVICE,
    EXPERTS,
    HIDDEN,
    SORTED_TILES,
    call,
    poison,
)
from tests.runtime.kernels.harness import close

NAME = "cuda.local_moe_ffn"
ALL, FIRST = 3 * EXPERTS, EXPERTS
OPERANDS = ("x", "weights", "ids", "gate_up", "down", "first")
KINDS = ("random", "all foreign", "none foreign", "hostile")


def choices(kind: str, tokens: int) -> torch.Tensor:
    if kind == "hostile":
        return torch.tensor([[-1, 1 << 40, FIRST + 2]]).repeat(tokens, 1)
    first, count = {"all foreign": (0, FIRST), "none foreign": (FIRST, EXPERTS)}.get(kind, (0, ALL))
    generator = torch.Generator().manual_seed(tokens)
    rows = [first + torch.randperm(count, generator=generator)[:3] for _ in range(tokens)]
    return torch.stack(rows)


def local_call(ids: torch.Tensor) -> dict[str, Any]:
    given = call(ids, torch.float32)
    del given["shared_gate_up"], given["shared_down"]
    first = torch.tensor([FIRST], device=DEVICE)
    return {**given, "first": first, "local_ids": torch.full_like(given["ids"], 1 << 40)}


def check(given: dict[str, Any]) -> None:
    close(given["out"], local_moe_ffn(*(given[name] for name in OPERANDS)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("variant", "tokens"),
    [(BY_TOKEN, 1), (BY_TOKEN, 2), (BY_EXPERT, 2), (BY_EXPERT, 9), (SORTED_TILES, 19)],
    ids=["by_token-1", "by_token-2", "by_expert-by-pair", "by_expert", "sorted_tiles"],
)
def test_variants(variant: dict[str, Any], tokens: int, kind: str) -> None:
    given = local_call(choices(kind, tokens))
    poison()
    find_binder(NAME)({**given, "configuration": variant})()
    check(given)


@pytest.mark.parametrize("variant", [None, BY_TOKEN, BY_EXPERT, SORTED_TILES])
def test_a_call_follows_ids_and_place_between_runs(variant: dict[str, Any] | None) -> None:
    given = local_call(choices("random", 2))
    thunk = find_binder(NAME)({**given, "configuration": variant})
    for kind, first in (("none foreign", FIRST), ("random", 0), ("all foreign", FIRST)):
        given["ids"].copy_(choices(kind, 2))
        given["first"].fill_(first)
        poison()
        thunk()
        check(given)


def test_the_grouped_product_is_no_candidate_and_refused() -> None:
    given = local_call(choices("random", 64))
    one = read_call({**given, "ids": given["local_ids"]}, is_local=True)
    assert all(found["variant"] != "grouped_mm" for found in select.candidates(one))
    with pytest.raises(PlanError, match="no grouped product"):
        find_binder(NAME)({**given, "configuration": {"variant": "grouped_mm"}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": torch.tensor([1, 2])}, "'first' has the wrong shape"),
        ({"first": torch.tensor([1], dtype=torch.int32)}, "dtype of 'first'"),
        ({"local_ids": torch.zeros(2, 2, dtype=torch.int64)}, "'local_ids' has the wrong shape"),
        ({"weights": torch.zeros(4, 3)}, "'weights' has the wrong shape"),
        ({"x": torch.zeros(2, HIDDEN + 1)}, "'x' has the wrong shape"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    moved = {name: tensor.to(DEVICE) for name, tensor in change.items()}
    with pytest.raises(PlanError, match=message):
        find_binder(NAME)(local_call(choices("random", 2)) | moved)

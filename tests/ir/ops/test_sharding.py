"""Shards of an op, computed apart and joined as its facts say, are the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from glmc.ir.ops import OPS, SemanticOp
from glmc.ir.ops.facts import Cut, Sharding, by_name
from tests.ir.ops.operands import OURS, arguments, results

RANKS = 2
CASES = [(name, each) for name in OURS for each in OPS[name].facts.shardings]
REPLICATED = {"add_rms_norm", "norm_add_rms_norm", "moe_gate"}


@pytest.mark.parametrize(
    ("name", "sharding"), CASES, ids=[f"{name}-{each.name}" for name, each in CASES]
)
def test_shards_are_the_whole(name: str, sharding: Sharding) -> None:
    op, named = OPS[name], arguments(name)
    whole = results(op, named)
    shards = [shard(op, sharding, named, rank) for rank in range(RANKS)]
    for key in sharding.operands:
        broadcast = name == "masked_attention" and key == "mask"
        assert torch.equal(shards[1][key], named[key]) == broadcast
    parts = [results(op, each) for each in shards]
    if sharding.silenced == "out":
        for (part,), elsewhere in zip(parts, others(sharding, named), strict=True):
            part[elsewhere] = 0
    for index, (before, join) in enumerate(zip(whole, sharding.results, strict=True)):
        joined = joined_results([part[index] for part in parts], join, named)
        torch.testing.assert_close(joined, before)


def test_every_op_is_cut_or_replicated_on_purpose() -> None:
    assert {name for name in OURS if not OPS[name].facts.shardings} == REPLICATED


def shard(op: SemanticOp, sharding: Sharding, named: dict[str, Any], rank: int) -> dict[str, Any]:
    """The arguments of one rank."""
    mine = dict(named)
    for key, how in sharding.operands.items():
        if isinstance(how, Cut):
            mine[key] = cut(named[key], how, named, rank)
        elif rank:
            mine[key] = torch.zeros_like(named[key])
    for key in sharding.divided:
        mine[key] = named[key] // RANKS
    if sharding.index is not None:
        elsewhere = others(sharding, named)[rank]
        local = (named[sharding.index] - rank * held(sharding, named)).masked_fill(elsewhere, 0)
        mine[sharding.index] = local
        if sharding.silenced != "out":
            assert sharding.silenced is not None
            mine[sharding.silenced] = named[sharding.silenced].masked_fill(elsewhere, 0)
    return mine


def held(sharding: Sharding, named: dict[str, Any]) -> int:
    """How many indices a rank has."""
    (size,) = {
        named[key].shape[how.axis]
        for key, how in sharding.operands.items()
        if isinstance(how, Cut) and how.axis == 0 and how.sections == 1
    }
    return int(size) // RANKS


def others(sharding: Sharding, named: dict[str, Any]) -> list[Tensor]:
    """By rank, where the indices are another rank's."""
    rank_of = named[sharding.index] // held(sharding, named)
    return [rank_of != rank for rank in range(RANKS)]


def section_sizes(how: Cut, size: int, named: dict[str, Any]) -> Sequence[int]:
    if callable(how.sections):
        return [int(each) for each in by_name(how.sections, named)]
    return [size // how.sections] * how.sections


def cut(tensor: Tensor, how: Cut, named: dict[str, Any], rank: int) -> Tensor:
    if tensor.shape[how.axis] == 1:
        return tensor
    sections = tensor.split(list(section_sizes(how, tensor.shape[how.axis], named)), how.axis)
    return torch.cat([each.chunk(RANKS, how.axis)[rank] for each in sections], how.axis)


def joined_results(parts: list[Tensor], how: Cut | str, named: dict[str, Any]) -> Tensor:
    if not isinstance(how, Cut):
        return torch.stack(parts).sum(0)
    size = sum(part.shape[how.axis] for part in parts)
    sizes = [each // RANKS for each in section_sizes(how, size, named)]
    sections = zip(*(part.split(sizes, how.axis) for part in parts), strict=True)
    return torch.cat([torch.cat(section, how.axis) for section in sections], how.axis)

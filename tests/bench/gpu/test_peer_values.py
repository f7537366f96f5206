"""The proof of values of a group of cards, on threads: whether it sees another order of sums."""

from __future__ import annotations

import pytest
import torch

from bench.gpu.peer_values import require_rank_order
from bench.gpu.virtual_values import Case
from glmc_runtime.collectives.group import Group
from glmc_runtime.errors import RankError
from tests.runtime.collectives.conftest import in_groups
from tests.support.peers import peers_by_the_library

CPU = torch.device("cpu")


def test_two_ranks_of_float32_have_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    peers_by_the_library(monkeypatch)
    cases = [Case("one_shot", torch.float32, 7), Case("two_shot", torch.float32, 2049, 1)]
    assert in_groups(2, lambda group: require_rank_order(group, CPU, cases)) == [None] * 2


def test_another_order_is_seen_on_the_rank_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    peers_by_the_library(monkeypatch)
    case = Case("one_shot", torch.bfloat16, 40_960)

    def run(group: Group) -> str:
        with pytest.raises(RankError, match="another sum over the memory of peers") as caught:
            require_rank_order(group, CPU, [case])
        return str(caught.value)

    for rank, text in enumerate(in_groups(4, run)):
        assert f"rank {rank} has" in text and str(case) in text and "element" in text

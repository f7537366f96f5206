"""Each algorithm adds in the order of its class: bit for bit, on all ranks, for every size."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from glmc_runtime.collectives.group import Group
from glmc_runtime.collectives.shared_memory import CAPACITY
from glmc_runtime.errors import GuardError, PlanError
from glmc_runtime.format.algorithms import ALGORITHMS, PEERS, TREE, of_class
from glmc_runtime.format.collectives import AlgorithmTable, Band, GroupKey, Origin, TableEntry
from tests.runtime.collectives.conftest import in_groups

SIZES = (1, 2, 3, 7, 64, 1001)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ON_HOSTS = [name for name, one in ALGORITHMS.items() if one.medium != PEERS]


def message(rank: int, count: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * count + rank)
    return torch.randn(count, generator=generator).mul_(10 ** (rank % 3)).to(dtype)


def reference(messages: list[Tensor]) -> Tensor:
    """Pairs of neighbours, then pairs of pairs; surplus ranks first."""
    count = 1 << (len(messages).bit_length() - 1)
    level = list(messages[:count])
    for place, surplus in enumerate(messages[count:]):
        level[place] = level[place] + surplus
    while len(level) > 1:
        level = [a + b for a, b in zip(level[::2], level[1::2], strict=True)]
    return level[0]


def sums(group: Group, algorithm: str) -> dict[tuple[int, torch.dtype], Tensor]:
    found = {}
    for count in SIZES:
        for dtype in DTYPES:
            x = message(group.rank, count, dtype)
            group.all_reduce_of(x, algorithm)()
            found[count, dtype] = x
    return found


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("algorithm", ON_HOSTS)
def test_all_ranks_get_the_bits_of_the_class(algorithm: str, size: int) -> None:
    first, *others = in_groups(size, lambda group: sums(group, algorithm))
    for (count, dtype), total in first.items():
        assert all(torch.equal(total, other[count, dtype]) for other in others)
        messages = [message(rank, count, dtype) for rank in range(size)]
        if ALGORITHMS[algorithm].numerics == TREE:
            assert torch.equal(total, reference(messages)), (count, dtype)
        else:
            exact = torch.stack(messages).double().sum(0)
            torch.testing.assert_close(total.double(), exact, rtol=0.05, atol=2.0)


def test_the_classes_are_told_apart() -> None:
    """The ring of four adds most elements in another order than the tree."""
    ring, tree = (in_groups(4, partial(sums, algorithm=name))[0] for name in ("ring", "butterfly"))
    assert not torch.equal(ring[1001, torch.float32], tree[1001, torch.float32])


@pytest.mark.parametrize("algorithm", of_class(TREE))
def test_an_elements_sum_does_not_follow_its_place(algorithm: str) -> None:
    def run(group: Group) -> tuple[Tensor, Tensor]:
        whole = message(group.rank, 1001, torch.bfloat16)
        part = whole[500:].clone()
        group.all_reduce_of(whole, algorithm)()
        group.all_reduce_of(part, algorithm)()
        return whole[500:], part

    for whole, part in in_groups(4, run):
        assert torch.equal(whole, part)


def test_a_tree_goes_on_where_fewer_ranks_added_a_part_of_it() -> None:
    """Four ranks, or two that have each added two neighbours: the same bits."""
    parts = [message(rank, 1001, torch.bfloat16) for rank in range(4)]

    def of_four(group: Group) -> Tensor:
        x = parts[group.rank].clone()
        group.all_reduce_of(x, "halving_doubling")()
        return x

    def of_two(group: Group) -> Tensor:
        x = parts[2 * group.rank] + parts[2 * group.rank + 1]
        group.all_reduce_of(x, "butterfly")()
        return x

    assert torch.equal(in_groups(4, of_four)[0], in_groups(2, of_two)[0])


@pytest.mark.parametrize("algorithm", ON_HOSTS)
def test_a_thunk_is_called_again_and_again(algorithm: str) -> None:
    def run(group: Group) -> list[float]:
        x = torch.zeros(5)
        thunk = group.all_reduce_of(x, algorithm)
        totals = []
        for turn in range(20):
            x.fill_(float(group.rank + turn))
            thunk()
            totals.append(x.sum().item())
        return totals

    expected = [5.0 * (0 + 1 + 2 + 3 * turn) for turn in range(20)]
    assert in_groups(3, run) == [expected] * 3


def test_a_message_larger_than_a_slot_goes_in_pieces() -> None:
    count = CAPACITY // 4 + 3

    def run(group: Group) -> Tensor:
        x = message(group.rank, count, torch.float32)
        group.all_reduce_of(x, "one_shot")()
        return x

    messages = [message(rank, count, torch.float32) for rank in range(2)]
    for total in in_groups(2, run):
        assert torch.equal(total, reference(messages))


def test_nan_has_the_same_bits_on_all_ranks() -> None:
    """Payloads follow the order of operands, which is that of the ranks."""

    def run(group: Group) -> Tensor:
        bits = torch.tensor([0x7FC00000 + group.rank + 1], dtype=torch.int32)
        x = bits.view(torch.float32).clone()
        group.all_reduce_of(x, "butterfly")()
        return x.view(torch.int32)

    assert len({int(bits) for bits in in_groups(4, run)}) == 1


def test_what_no_algorithm_takes() -> None:
    group = Group(0, 1, None)
    with pytest.raises(PlanError, match="not contiguous"):
        group.all_reduce_of(torch.zeros(4, 4).t())
    with pytest.raises(PlanError, match="no version for the dtype"):
        group.all_reduce_of(torch.zeros(4, dtype=torch.int32))
    with pytest.raises(PlanError, match="no all-reduce 'tree'"):
        group.all_reduce_of(torch.zeros(4), "tree")


def test_one_rank_keeps_what_it_has() -> None:
    x = torch.ones(3)
    Group(0, 1, None).all_reduce(x)
    assert x.tolist() == [1, 1, 1]


def test_a_card_takes_kernels_over_the_memory_of_peers_from_a_table_and_nothing_else() -> None:
    bands = (Band(8, "butterfly"), Band(64, "peer_one_shot"), Band(None, "peer_two_shot"))
    key = GroupKey(2, "one-host", "bfloat16")
    table = AlgorithmTable((TableEntry(key, "any", bands, Origin("measured", "", "here")),))

    def chosen(count: int, dtype: torch.dtype = torch.bfloat16, ranks: int = 2) -> str:
        x = torch.empty(count, dtype=dtype, device="meta")
        return Group(0, ranks, None, table).algorithm_of(x)

    names = [chosen(count) for count in (2, 4, 32)]
    assert names == ["library", "peer_one_shot", "peer_two_shot"]
    assert chosen(32, torch.int64) == chosen(32, ranks=4) == "library"


def test_a_group_without_cards_has_no_memory_of_peers() -> None:
    def run(group: Group) -> str:
        with pytest.raises(GuardError, match="the memory of peers is that of cards") as caught:
            group.all_reduce_of(torch.zeros(4), "peer_one_shot")
        return caught.value.found

    assert in_groups(2, run) == ["a group over gloo"] * 2

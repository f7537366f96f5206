"""Ranks that hold something else are named, on every rank."""

from __future__ import annotations

import pytest

from glmc_runtime.collectives.agreement import agree, gathered_texts
from glmc_runtime.collectives.group import Group
from glmc_runtime.errors import RankError
from tests.runtime.collectives.conftest import in_groups


def test_equal_hashes_agree() -> None:
    in_groups(3, lambda group: agree(group, {"table": "a" * 64, "plan": "b" * 64}))


@pytest.mark.parametrize("strange", [0, 1, 2])
def test_the_rank_that_differs_is_named_on_each(strange: int) -> None:
    def run(group: Group) -> RankError:
        hashes = {"plan": "b", "table": "c" if group.rank == strange else "a"}
        with pytest.raises(RankError) as caught:
            agree(group, hashes)
        return caught.value

    for error in in_groups(3, run):
        assert error.message == f"rank {strange} has another table than the others"
        assert (error.expected, error.found) == ("table a", "table c")


def test_a_file_that_a_rank_lacks() -> None:
    def run(group: Group) -> str:
        with pytest.raises(RankError) as caught:
            agree(group, {"plan": "b"} if group.rank else {"plan": "b", "table": "a"})
        return str(caught.value)

    for text in in_groups(3, run):
        assert "rank 0 has another table" in text and "expected: table nothing" in text


def test_texts_of_all_lengths_arrive() -> None:
    texts = ["", "ü" * 7, "x" * 1000]
    assert in_groups(3, lambda group: gathered_texts(group, texts[group.rank])) == [texts] * 3
    assert gathered_texts(Group(0, 1, None), "alone") == ["alone"]

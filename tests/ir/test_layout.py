"""Layouts: each entry of a dimension lies on some rank, and heads stay with the heads they read."""

from __future__ import annotations

from collections import Counter

import pytest

from glmc.ir.layout import Layout, Run, Section, even

RANKS = (1, 2, 3, 4, 6, 8)


def entries(layout: Layout, rank: int) -> list[int | None]:
    """The place of each entry that a rank has, None for a zero."""
    return [
        None if start is None else start + offset
        for start, length in layout.runs(rank)
        for offset in range(length)
    ]


def heads(kv_heads: int, group: int, ranks: int) -> tuple[Layout, Layout]:
    """Of query heads, and of the KV heads that they read."""
    return (
        Layout((Section(kv_heads, group, parts=group),), ranks),
        Layout((Section(kv_heads, repeated=True),), ranks),
    )


def test_what_divides() -> None:
    assert [even(8, 2).runs(rank) for rank in range(2)] == [(Run(0, 4),), (Run(4, 4),)]


def test_what_does_not_divide_is_filled_up() -> None:
    layout = even(5, 4)
    assert [layout.runs(rank) for rank in range(4)] == [
        (Run(0, 2),),
        (Run(2, 2),),
        (Run(4, 1), Run(None, 1)),
        (Run(None, 2),),
    ]
    assert (layout.local, layout.padded, layout.entries) == (2, 3, 5)


def test_sections_are_dealt_one_by_one() -> None:
    layout = Layout((Section(4), Section(4)), 2)
    assert layout.runs(1) == (Run(2, 2), Run(6, 2))
    assert Layout((Section(4), Section(4)), 1).runs(0) == (Run(0, 8),)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("size", range(1, 10))
def test_even_has_each_entry_once(size: int, ranks: int) -> None:
    layout = even(size, ranks)
    seen = [entry for rank in range(ranks) for entry in entries(layout, rank)]
    assert [entry for entry in seen if entry is not None] == list(range(size))
    assert {len(entries(layout, rank)) for rank in range(ranks)} == {layout.local}
    assert seen.count(None) == layout.padded


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("group", [1, 2, 3, 8])
@pytest.mark.parametrize("kv_heads", range(1, 9))
def test_a_query_head_lies_with_the_kv_head_that_it_reads(
    kv_heads: int, group: int, ranks: int
) -> None:
    queries, keys = heads(kv_heads, group, ranks)
    seen: Counter[int] = Counter()
    for rank in range(ranks):
        mine, read = entries(queries, rank), entries(keys, rank)
        assert len(mine) == queries.local and len(read) == keys.local
        assert len(mine) % len(read) == 0
        ratio = len(mine) // len(read)
        for place, head in enumerate(mine):
            if head is not None:
                assert read[place // ratio] == head // group
                seen[head] += 1
    assert seen == Counter(range(kv_heads * group))


@pytest.mark.parametrize("ranks", RANKS)
def test_heads_become_columns_and_back(ranks: int) -> None:
    queries, _ = heads(2, 6, ranks)
    columns = queries.scaled(4)
    assert columns.divided(4) == queries
    for rank in range(ranks):
        expected = [
            None if head is None else head * 4 + at
            for head in entries(queries, rank)
            for at in range(4)
        ]
        assert entries(columns, rank) == expected


def test_a_row_is_not_cut_through() -> None:
    assert even(8, 2).divided(4) is None
    assert even(8, 2, unit=4).divided(4) == even(2, 2)


@pytest.mark.parametrize("ranks", RANKS)
def test_each_rank_has_a_multiple(ranks: int) -> None:
    layout = even(44, ranks, multiple=8)
    seen = [entry for rank in range(ranks) for entry in entries(layout, rank)]
    assert [entry for entry in seen if entry is not None] == list(range(44))
    assert layout.local % 8 == 0


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("kv_heads", [1, 2, 3, 8, 9])
def test_a_rank_of_fewer_has_neighbours_of_many(kv_heads: int, ranks: int) -> None:
    count = 8 // ranks
    for many in heads(kv_heads, 3, 8):
        few = Layout(many.sections, ranks, merged=count)
        assert few == Layout(many.sections, ranks).merging(8)
        assert few.local == count * many.local
        for rank in range(ranks):
            shares = range(rank * count, (rank + 1) * count)
            assert entries(few, rank) == [one for share in shares for one in entries(many, share)]


def test_neighbours_lie_together_in_each_section() -> None:
    layout = Layout((Section(3), Section(3)), 1, merged=2)
    assert layout.runs(0) == (Run(0, 3), Run(None, 1), Run(3, 3), Run(None, 1))
    assert layout.padded == 2

"""Two layouts of one value read as the same rows, and what is not one value is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glmc.check.align.layout import Layout, common_layout, in_both, rows_of

Rows = tuple[int, ...] | None


def both(
    expected: Tensor,
    actual: Tensor,
    layout: Layout | None,
    rows: tuple[Rows, Rows] = (None, None),
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    assert layout is not None
    whole = shapes or (tuple(expected.shape), tuple(actual.shape))
    return in_both(
        rows_of(expected, whole[0], rows[0], layout.expected, layout.width),
        rows_of(actual, whole[1], rows[1], layout.actual, layout.width),
    )


def numbered(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape).float()


@pytest.mark.parametrize(
    ("expected", "actual", "lengths"),
    [
        ((2, 5, 8), (10, 8), None),
        ((2, 5, 8), (10, 8), (5, 5)),
        ((1, 5, 6, 4), (5, 6, 4), None),
        ((1, 5, 24), (5, 6, 4), (5,)),
        ((5, 6, 4), (1, 5, 24), (2, 3)),
        ((1, 5), (5,), None),
        ((2, 5), (10,), (5, 5)),
        ((1, 8), (1, 1, 8), (1,)),
        ((3, 6, 1, 4), (3, 6, 4), (1, 1, 1)),
    ],
)
def test_a_batch_and_packed_tokens_are_the_same_rows(
    expected: tuple[int, ...], actual: tuple[int, ...], lengths: tuple[int, ...] | None
) -> None:
    value = numbered(*expected)
    layout = common_layout(expected, actual, lengths)
    was, now, numbers = both(value, value.reshape(actual), layout)
    assert torch.equal(was, now)
    assert was.numel() == value.numel()
    assert layout is not None
    tokens = layout.tokens_of(numbers)
    assert tokens is not None
    count = sum(lengths) if lengths else 5 if 5 in actual else actual[0]
    assert tokens.tolist() == sorted([*range(count)] * (len(numbers) // count))


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_heads_first_is_read_with_tokens_first(batch: int, swap: bool) -> None:
    packed = numbered(batch * 5, 3, 4)
    heads_first = packed.reshape(batch, 5, 3, 4).transpose(1, 2).contiguous()
    sides = (packed, heads_first) if swap else (heads_first, packed)
    layout = common_layout(tuple(sides[0].shape), tuple(sides[1].shape), (5,) * batch)
    was, now, numbers = both(*sides, layout)
    assert torch.equal(was, packed.reshape(-1, 4)) and torch.equal(now, was)
    assert layout is not None
    tokens = layout.tokens_of(numbers)
    assert tokens is not None and tokens.tolist() == sorted([*range(batch * 5)] * 3)


def test_as_many_heads_as_tokens_are_read_with_tokens_first() -> None:
    value = numbered(1, 4, 4, 8)
    was, now, _ = both(value, value[0], common_layout((1, 4, 4, 8), (4, 4, 8), (4,)))
    assert torch.equal(was, now)


def test_the_last_token_of_each_sequence_is_taken_of_the_side_that_has_all() -> None:
    whole = numbered(7, 8)
    last = whole[[2, 6]]
    layout = common_layout((7, 8), (2, 8), (3, 4))
    was, now, numbers = both(whole, last, layout)
    assert torch.equal(was, last) and torch.equal(now, last)
    assert layout is not None
    tokens = layout.tokens_of(numbers)
    assert tokens is not None and tokens.tolist() == [2, 6]
    # A batch says itself how long its sequences are.
    batch = numbered(2, 3, 8)
    was, now, _ = both(batch[:, -1], batch, common_layout((2, 8), (2, 3, 8)))
    assert torch.equal(was, batch[:, -1]) and torch.equal(now, was)
    assert common_layout((7, 8), (2, 8), (3, 3)) is None
    assert common_layout((7, 8), (3, 8), (3, 4)) is None


def test_the_last_tokens_of_both_sides_know_which_tokens_they_are() -> None:
    layout = common_layout((2, 8), (2, 1, 8), (3, 4))
    assert layout is not None
    tokens = layout.tokens_of(torch.arange(2))
    assert tokens is not None and tokens.tolist() == [2, 6]


def test_columns_of_a_merged_projection_are_the_part_alone() -> None:
    merged = numbered(5, 12)
    part = merged[:, 4:8]
    layout = common_layout((1, 5, 4), (5, 12), (5,), (None, (4, 8)))
    was, now, _ = both(part.reshape(1, 5, 4), merged, layout)
    assert torch.equal(was, part) and torch.equal(now, part)
    heads = common_layout((1, 5, 2, 2), (5, 12), (5,), (None, (4, 8)))
    was, now, _ = both(part.reshape(1, 5, 2, 2), merged, heads)
    assert torch.equal(was, now) and was.shape == (10, 2)


def test_of_sampled_rows_the_common_ones_are_compared_whatever_a_row_is() -> None:
    value = numbered(6, 3, 4)
    tokens = value.reshape(1, 6, 12)
    layout = common_layout((1, 6, 12), (6, 3, 4), (6,))
    rows = (0, 2, 5), (1, 6, 7, 16)
    shapes = (1, 6, 12), (6, 3, 4)
    was, now, numbers = both(
        tokens[0, list(rows[0])], value.reshape(-1, 4)[list(rows[1])], layout, rows, shapes
    )
    assert torch.equal(was, now)
    assert numbers.tolist() == [1, 6, 7, 16]
    nothing = both(tokens[0, [1]], value.reshape(-1, 4)[[0]], layout, ((1,), (0,)), shapes)
    assert not len(nothing[2])


def test_sampled_rows_with_heads_first_are_those_of_the_heads() -> None:
    packed = numbered(5, 3, 4)
    heads_first = packed.transpose(0, 1)[None].contiguous()
    layout = common_layout((1, 3, 5, 4), (5, 3, 4), (5,))
    stored = heads_first.reshape(-1, 4)[[2, 5, 14]]
    was, now, numbers = both(stored, packed, layout, ((2, 5, 14), None), ((1, 3, 5, 4), (5, 3, 4)))
    assert torch.equal(was, now)
    assert numbers.tolist() == [1, 6, 14]


@pytest.mark.parametrize(
    ("expected", "actual"),
    [((2, 5, 8), (10, 9)), ((4, 8), (8, 4)), ((5, 8), (8, 5)), ((0, 8), (0, 8)), ((6,), (2, 4))],
)
def test_what_is_not_one_value_has_no_layout(
    expected: tuple[int, ...], actual: tuple[int, ...]
) -> None:
    assert common_layout(expected, actual) is None


def test_rows_of_no_token_are_compared_all_the_same() -> None:
    layout = common_layout((1, 1, 5, 5), (1, 1, 5, 5), (5,))
    was, now, numbers = both(numbered(1, 1, 5, 5), numbered(1, 1, 5, 5), layout)
    assert torch.equal(was, now) and layout is not None
    assert layout.tokens_of(numbers) is None
    scalar = common_layout((), ())
    assert scalar is not None

"""How tensors of two layouts read as one matrix: a row for a token, or for a head of one.

Hugging Face has [batch, tokens, ...], packed tokens are [tokens, ...], and attention may have the
heads first: [batch, heads, tokens, head_dim]. Of logits a side may have the last token of each
sequence alone. A record may have stored some rows only. So each side's rows are numbered as rows of
the common matrix, and those with a number on both sides are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import gcd, prod

import torch
from torch import Tensor

Shape = tuple[int, ...]
NOWHERE = -1


@dataclass(frozen=True)
class Reading:
    """How one side reads: ``columns`` of its last dimension alone, where there are some, and the
    number of each of its rows of the common width (None: they are in the common order)."""

    columns: tuple[int, int] | None = None
    numbers: Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """The common matrix: ``width`` columns, and ``per_token`` rows of it for each token, or 0 where
    rows are of no token. ``tokens`` has the numbers of the tokens where these are not all of a
    step."""

    width: int
    per_token: int
    expected: Reading = Reading()
    actual: Reading = Reading()
    tokens: tuple[int, ...] | None = None

    def tokens_of(self, numbers: Tensor) -> Tensor | None:
        """The token of each row, as a number within its step."""
        if not self.per_token:
            return None
        place = numbers // self.per_token
        return place if self.tokens is None else torch.tensor(self.tokens)[place]


def common_layout(
    expected: Shape,
    actual: Shape,
    lengths: Sequence[int] | None = None,
    columns: tuple[tuple[int, int] | None, tuple[int, int] | None] = (None, None),
) -> Layout | None:
    """The layout of two shapes, None where they are not of one value. ``lengths`` are the tokens of
    the step's sequences, where they are known; ``columns`` what is taken of each side's last
    dimension.

    What can be read both with tokens and with heads first, as many of one as of the other, has
    tokens first.
    """
    was, now = (_cut(*each) for each in zip((expected, actual), columns, strict=True))
    if not prod(was) or not prod(now):
        return None
    found = (
        _same_order(was, now, lengths)
        or _heads_first(was, now, lengths)
        or _last_rows(was, now, lengths)
    )
    if found is None:
        return None
    return replace(
        found,
        expected=replace(found.expected, columns=columns[0]),
        actual=replace(found.actual, columns=columns[1]),
    )


def rows_of(
    tensor: Tensor, shape: Shape, rows: tuple[int, ...] | None, reading: Reading, width: int
) -> tuple[Tensor, Tensor]:
    """The stored rows of a side [rows, width] and their numbers, ascending. ``rows`` are those of
    the tensor of ``shape`` that are stored; None: all."""
    last = shape[-1] if shape else 1
    matrix = tensor.reshape(-1, last)
    if reading.columns is not None:
        start, last = reading.columns[0], reading.columns[1] - reading.columns[0]
        matrix = matrix[:, start : start + last]
    matrix, parts = matrix.reshape(-1, width), last // width
    if rows is None:
        numbers = torch.arange(len(matrix))
    else:
        numbers = (torch.tensor(rows)[:, None] * parts + torch.arange(parts)).flatten()
    if reading.numbers is not None:
        numbers = reading.numbers[numbers]
        order = numbers.argsort()
        order = order[numbers[order] > NOWHERE]
        numbers, matrix = numbers[order], matrix[order]
    return matrix, numbers


def in_both(
    expected: tuple[Tensor, Tensor], actual: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of two sides, as :func:`rows_of` gives them, that both have, and their numbers."""
    (was, numbers), (now, others) = expected, actual
    if torch.equal(numbers, others):
        return was, now, numbers
    return (
        was[torch.isin(numbers, others)],
        now[torch.isin(others, numbers)],
        numbers[torch.isin(numbers, others)],
    )


def _cut(shape: Shape, columns: tuple[int, int] | None) -> Shape:
    return shape if columns is None else (*shape[:-1], columns[1] - columns[0])


def _token_counts(shape: Shape, other: Shape) -> list[int]:
    """How many tokens there may be: in a batch of sequences, or in the first dimension."""
    batch = len(shape) > 2 or (len(shape) == 2 and (shape[0] == 1 or len(other) == 1))
    return [shape[0] * shape[1], shape[0]] if batch else [*shape[:1]]


def _same_order(expected: Shape, actual: Shape, lengths: Sequence[int] | None) -> Layout | None:
    if prod(expected) != prod(actual):
        return None
    others = _token_counts(actual, expected)
    counts = [each for each in _token_counts(expected, actual) if each in others]
    if not counts and expected != actual:
        return None
    tokens = counts[0] if counts else 0
    last: tuple[int, ...] | None = None
    if lengths is not None:
        tokens = sum(lengths) if sum(lengths) in counts else 0
        if not tokens and len(lengths) in counts and prod(expected[:-1]) == len(lengths):
            tokens, last = len(lengths), tuple(_ends(lengths))
    width = gcd(*((shape or (1,))[-1] for shape in (expected, actual)))
    if tokens:
        width = gcd(width, prod(expected) // tokens)
    return Layout(width, prod(expected) // width // tokens if tokens else 0, tokens=last)


def _heads_first(expected: Shape, actual: Shape, lengths: Sequence[int] | None) -> Layout | None:
    for heads_first, other in ((expected, actual), (actual, expected)):
        if len(heads_first) not in (3, 4):
            continue
        batch, heads, tokens, size = (1, *heads_first)[-4:]
        known = [batch * tokens] if lengths is None else [sum(lengths)]
        counts = [each for each in _token_counts(other, heads_first) if each in known]
        if prod(other) != prod(heads_first) or batch * tokens not in counts:
            continue
        if other[-1] not in (size, heads * size):
            continue
        numbers = torch.arange(batch * tokens * heads).reshape(batch, tokens, heads)
        turned = Reading(numbers=numbers.transpose(1, 2).flatten())
        sides = (turned, Reading()) if heads_first is expected else (Reading(), turned)
        return Layout(size, heads, *sides)
    return None


def _last_rows(expected: Shape, actual: Shape, lengths: Sequence[int] | None) -> Layout | None:
    for whole, last in ((expected, actual), (actual, expected)):
        if len(whole) < 2 or len(last) < 2 or whole[-1] != last[-1]:
            continue
        width = whole[-1]
        tokens, sequences = prod(whole) // width, prod(last) // width
        if lengths is None and len(whole) == 3:
            lengths = [whole[1]] * whole[0]
        ends = _ends(lengths or ())
        if not ends or tokens != ends[-1] + 1 or sequences != len(ends):
            continue
        numbers = torch.full((tokens,), NOWHERE)
        numbers[torch.tensor(ends)] = torch.arange(len(ends))
        picked = Reading(numbers=numbers)
        sides = (picked, Reading()) if whole is expected else (Reading(), picked)
        return Layout(width, 1, *sides, tuple(ends))
    return None


def _ends(lengths: Sequence[int]) -> list[int]:
    """The number of the last token of each sequence."""
    return [end - 1 for end in accumulate(lengths)]

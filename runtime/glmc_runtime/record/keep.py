"""Which elements of each tensor a record stores: all, some rows, or none beside statistics.

Rows are those of the tensor as a matrix, all dimensions but the last flattened into the first.
They follow from their number alone, so two sides choose the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod

from glmc_runtime.errors import RequestError

ALL, ROWS, STATISTICS = "all", "rows", "statistics"


@dataclass(frozen=True)
class Keep:
    """``what`` is ``all``, ``rows`` or ``statistics``; ``rows`` how many of each tensor."""

    what: str = ALL
    rows: int = 0

    @classmethod
    def parse(cls, text: str) -> Keep:
        """``all``, ``rows:N`` or ``statistics``; raises :class:`RequestError`."""
        what, colon, count = text.partition(":")
        if text in (ALL, STATISTICS):
            return cls(text)
        if what == ROWS and colon and count.isascii() and count.isdigit() and int(count) > 0:
            return cls(ROWS, int(count))
        raise RequestError(
            "--keep names nothing that a record can store",
            expected=f"{ALL}, {ROWS}:N with N of at least 1, {STATISTICS}",
            found=text,
            remedy=f"--keep {ROWS}:16",
        )

    def chosen(self, shape: Sequence[int], lengths: Sequence[int]) -> tuple[int, ...] | None:
        """The rows of a tensor that are stored; None: all.

        Evenly spaced, the last one among them and the first if there are two. Of a tensor with a
        row for each token also the last of each sequence, by its ``lengths``: the rows whose logits
        choose a token.
        """
        count = rows_of(shape)
        if self.what != ROWS or count <= self.rows:
            return None
        ends = set(ends_of(lengths)) if count == sum(lengths) else set()
        steps = max(self.rows - 1, 1)
        even = {index * (count - 1) // steps for index in range(self.rows)}
        chosen = tuple(sorted((even if self.rows > 1 else {count - 1}) | ends))
        return None if len(chosen) == count else chosen


def rows_of(shape: Sequence[int]) -> int:
    """Rows of a tensor as a matrix; one of a vector and of a scalar."""
    return prod(shape[:-1])


def ends_of(lengths: Iterable[int]) -> list[int]:
    """The last row of each sequence, of sequences that are packed one after the other."""
    return [end - 1 for end in accumulate(lengths)]

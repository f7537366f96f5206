"""A table as wide as its console: numbers are never cut, and what has no room is left out and said.

rich cuts columns that do not wrap, the last ones first, without a sign of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.table import Table

from glmc_runtime.printable import printable

_BORDERS = 3
"""Columns of the terminal for each column of a table; and one more at the end."""
_TEXT = 14


@dataclass(frozen=True)
class Column:
    """``text`` is left-aligned and goes on in the next line where it must, ``name`` in the middle
    of a word, too; anything else is a number, which stands whole. Of columns that may be
    ``left_out`` that with the smallest number is the first."""

    title: str
    cells: tuple[str, ...]
    text: bool = False
    name: bool = False
    left_out: int | None = None

    @property
    def full(self) -> int:
        """The width at which no cell goes on in the next line; titles may."""
        return max([_longest_word(self.title), *(cell_len(printable(each)) for each in self.cells)])

    def wanted(self, width: int) -> int:
        """The least width before other columns are left out, of a console's ``width``."""
        if self.name:
            return min(self.full, max(width // 3, self.least))
        return min(self.full, max(_TEXT, self.least)) if self.text else self.full

    @property
    def least(self) -> int:
        """The width at which no word is cut; a name may be."""
        if self.name:
            return min(self.full, _TEXT)
        return max(map(_longest_word, (self.title, *self.cells)))


def fitted(title: str, columns: Sequence[Column], width: int) -> tuple[Table, tuple[str, ...]]:
    """The table and the titles of the columns that had no room."""
    shown = list(columns)
    leavable = sorted((each for each in columns if each.left_out is not None), key=_order)
    left: set[str] = set()
    while leavable and _taken(each.wanted(width) for each in shown) > width:
        least = leavable.pop(0)
        left.add(least.title)
        shown.remove(least)
    table = Table(title=title)
    widths = _widths(shown, width)
    for each, size in zip(shown, widths, strict=True):
        justify: Any = "left" if each.text or each.name else "right"
        table.add_column(each.title, justify=justify, overflow="fold", width=size)
    for row in zip(*(each.cells for each in shown), strict=True):
        table.add_row(*row)
    return table, tuple(each.title for each in columns if each.title in left)


def _widths(columns: Sequence[Column], width: int) -> list[int]:
    """Room is taken from what has most to spare where it is short, and given to names, then texts,
    then titles where there is some."""
    widths = [each.wanted(width) for each in columns]
    while (over := _taken(widths) - width) > 0:
        room = [size - each.least for size, each in zip(widths, columns, strict=True)]
        most = max(room)
        if most <= 0:
            break
        widths[room.index(most)] -= min(over, most)
    most_of_each = (
        [each.full if each.name else 0 for each in columns],
        [each.full if each.text else 0 for each in columns],
        [cell_len(each.title) for each in columns],
    )
    for sizes in most_of_each:
        for at, size in enumerate(sizes):
            spare = max(0, width - _taken(widths))
            widths[at] = max(widths[at], min(size, widths[at] + spare))
    return widths


def _taken(widths: Iterable[int]) -> int:
    return 1 + sum(size + _BORDERS for size in widths)


def _order(column: Column) -> int:
    return column.left_out or 0


def _longest_word(text: str) -> int:
    return max(map(cell_len, printable(text).split()), default=0)

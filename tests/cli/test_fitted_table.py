"""Widths of a table's columns, and which of them are left out."""

from __future__ import annotations

import io

from rich.table import Table

from glmc.cli.fitted_table import Column, fitted
from glmc.console import PlainConsole


def shown(table: Table, width: int) -> list[str]:
    out = io.StringIO()
    PlainConsole(file=out, width=width).print(table)
    return out.getvalue().splitlines()


NUMBERS = tuple(Column(f"n{at}", ("1.25e-06",), left_out=2 - at) for at in range(3))
NAME = Column("name", ("a" * 40,), name=True)


def test_all_columns_where_there_is_room() -> None:
    table, left = fitted("t", (NAME, *NUMBERS), 100)
    assert left == () and any("a" * 40 in line for line in shown(table, 100))


def test_columns_are_left_out_in_the_order_that_is_given() -> None:
    _, left = fitted("t", (NAME, *NUMBERS), 50)
    assert left == ("n2",)
    table, left = fitted("t", (NAME, *NUMBERS), 36)
    assert left == ("n1", "n2")
    assert all(len(line) <= 36 for line in shown(table, 36))


def test_numbers_go_on_at_a_space_before_anything_is_cut() -> None:
    column = Column("of allowed", ("2.16e+05 times",))
    table, left = fitted("t", (NAME, column), 30)
    lines = shown(table, 30)
    assert left == () and all(len(line) <= 30 for line in lines)
    assert any("2.16e+05 │" in line for line in lines) and any("times │" in line for line in lines)
    joined = "".join(line.split("│")[1].strip() for line in lines if "│" in line)
    assert joined == "a" * 40


def test_what_a_terminal_would_obey_is_measured_as_it_is_shown() -> None:
    table, _ = fitted("t", (Column("name", ("\x1b[2J",), name=True),), 40)
    (line,) = [line for line in shown(table, 40) if "│" in line]
    assert "\\x1b[2J" in line


def test_a_table_without_rows() -> None:
    table, left = fitted("t", (Column("step", ()), Column("verdict", (), text=True)), 80)
    assert left == () and table.row_count == 0

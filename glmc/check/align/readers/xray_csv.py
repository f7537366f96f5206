"""Summaries of records as tables: statistics of each tensor, without elements.

That is the csv beside a record of ours, one of torch_xray, and the boxed table of text that its
``summary`` prints, whose columns are documented (summary_csv.py has the source). Columns are found
by their names, whatever the case; those that are not known are left alone. torch_xray cuts long
names short in the boxed table, so these can't be told apart and are skipped.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from glmc.plain_file import read_plain
from glmc_runtime.errors import RecordError
from glmc_runtime.format.tensor_key import parse_key
from glmc_runtime.record.tensors import RecordedTensor, Statistics

_NUMBER = re.compile(r"\d+")
_DIGITS = 18
"""Of a size, at most."""


def _cell(cells: Sequence[str], columns: Mapping[str, int], name: str) -> str:
    """The text of a row in a column, empty where it has none."""
    place = columns.get(name, len(cells))
    return cells[place].strip() if place < len(cells) else ""


class XrayCsv:
    """A :class:`~glmc_runtime.record.tensors.Record` of statistics alone. ``facts`` has
    ``skipped``: names in another grammar, and ``read_ranks``: of how many ranks the lowest is read.
    A shape and a dtype that the table lacks are empty."""

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        header, *rows = _rows(path) or [[]]
        columns = {name.strip().lower(): place for place, name in enumerate(header)}
        if "module" not in columns:
            raise RecordError(
                "the table is no summary of a record",
                place=str(path),
                expected="a column 'Module', and Step, Min, Max, Mean, Std",
                found=", ".join(header)[:200],
                remedy="pass the summary that is beside a record, or the record",
            )
        ranks = {_cell(cells, columns, "rank") for cells in rows} - {""}
        first = min(ranks, key=lambda text: (not text.isdecimal(), len(text), text), default="")
        self._tensors: list[RecordedTensor] = []
        skipped: list[str] = []
        for number, cells in enumerate(rows, 2):
            if _cell(cells, columns, "rank") not in ("", first):  # which has the same names
                continue
            named = {name: cells[place] for name, place in columns.items() if place < len(cells)}
            tensor = self._tensor(named, number)
            if tensor is None:
                skipped.append(named.get("module", ""))
            else:
                self._tensors.append(tensor)
        if not self._tensors:
            raise RecordError(
                "the summary has no tensors",
                place=str(path),
                found=f"{len(rows)} rows, none of a whole key",
                remedy="pass the record itself, FILE.h5",
            )
        self.facts: Mapping[str, Any] = {
            **({"skipped": skipped} if skipped else {}),
            **({"read_ranks": len(ranks)} if len(ranks) > 1 else {}),
        }

    def tensors(self) -> Iterator[RecordedTensor]:
        """All tensors, by step and in the order of the rows."""
        yield from sorted(self._tensors, key=lambda each: each.step)

    def _tensor(self, cells: Mapping[str, str], row: int) -> RecordedTensor | None:
        """The tensor of a row; None where its name is in another grammar."""
        key = parse_key(cells.get("module", "").strip())
        if key is None:
            return None

        def unreadable(name: str, text: str) -> RecordError:
            return RecordError(
                "a number of the summary can't be read",
                place=f"{self.label}, row {row}, column {name}",
                found=text[:80],
            )

        def number(name: str, missing: float) -> float:
            text = cells.get(name, "").strip()
            try:
                return float(text) if text else missing
            except ValueError as error:
                raise unreadable(name, text) from error

        def count(name: str) -> int:
            found = number(name, 0)
            return int(found) if math.isfinite(found) else 0

        sizes = _NUMBER.findall(cells.get("shape", ""))
        if any(len(size) > _DIGITS for size in sizes):
            raise unreadable("shape", cells["shape"])
        node = cells.get("node", "")
        return RecordedTensor(
            step=count("step"),
            order=len(self._tensors),
            key=key,
            dtype=cells.get("dtype", "").strip().removeprefix("torch."),
            shape=tuple(map(int, sizes)),
            statistics=Statistics(
                minimum=number("min", math.nan),
                maximum=number("max", math.nan),
                mean=number("mean", math.nan),
                std=number("std", math.nan),
                nan=count("nan"),
                inf=count("inf"),
            ),
            facts={"node": node} if node else {},
        )


def _rows(path: Path) -> Sequence[list[str]]:
    """The cells of all rows, of a csv or of a boxed table."""
    try:
        text = read_plain(path).decode("utf-8-sig")
        if text.lstrip().startswith("+"):
            lines = (line.strip() for line in text.splitlines())
            return [
                [cell.strip() for cell in line.strip("|").split("|")]
                for line in lines
                if line.startswith("|")
            ]
        return [row for row in csv.reader(text.splitlines()) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(
            "the summary can't be read", place=str(path), found=str(error)[:200]
        ) from error

"""JSON as records: rows only where they are asked for."""

from __future__ import annotations

from dataclasses import dataclass

from glmc.artifact.records import record


@dataclass(frozen=True)
class _Inner:
    name: str
    count: int


@dataclass(frozen=True)
class _Outer:
    parts: tuple[_Inner, ...]


def test_a_row_is_a_record_only_where_rows_are_asked_for() -> None:
    whole = _Outer((_Inner("a", 1),))
    assert record({"parts": [{"name": "a", "count": 1}]}, _Outer) == whole
    assert record({"parts": [["a", 1]]}, _Outer, rows=True) == whole
    assert record({"parts": [["a", 1]]}, _Outer) == _Outer((["a", 1],))  # type: ignore[arg-type]

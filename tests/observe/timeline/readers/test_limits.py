"""Small files that want to be large: each is refused, before it takes what it asks for."""

from __future__ import annotations

import gzip
import json
import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest

from glmc.errors import UsageError
from glmc.observe.timeline.readers.limits import LARGEST, Limits
from glmc.observe.timeline.readers.open import open_timeline
from tests.observe.timeline.sample import VLLM

MIB = 1 << 20


def packed(path: Path, first: bytes, content: bytes, times: int) -> None:
    """Write a file of what is repeated, packed; a list is closed."""
    with gzip.open(path, "wb") as file:
        file.write(first)
        for _ in range(times):
            file.write(content)
        file.write(b"{}]" if first else b"")


BOMBS = {
    "of spaces": (b"", b" " * MIB, 100, "unpacks to more bytes"),
    "of lists in lists": (b"", b"[" * MIB, 8, "has more values"),
    "of empty lists": (b"[", b"[]," * (MIB // 3), 8, "has more values"),
    "of events": (b"[", b'{"ph":"X"},' * 10_000, 60, "has more events"),
    "of lines": (b"", b"\n" * MIB, 8, "has more lines"),
    "of separators": (b"", "\u2028".encode() * (MIB // 3), 16, "has more lines"),
    "of kernels": (b"", b"[XPURT_PROF] kernel 1 ns\n" * 10_000, 60, "has more events"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path, name: str) -> None:
    path = tmp_path / "trace.json.gz"
    *content, message = BOMBS[name]
    packed(path, *content)
    size = path.stat().st_size
    assert size < MIB
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match=message) as caught:
            open_timeline(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * Limits.of(size).unpacked < 512 * MIB
    error = caught.value
    assert error.code and error.place == str(path) and error.remedy
    assert error.expected.startswith("at most ") and error.found


def database(path: Path, *commands: str) -> None:
    with closing(sqlite3.connect(path)) as made:
        for command in commands:
            made.execute(command)
        made.commit()


KERNELS = "CUPTI_ACTIVITY_KIND_KERNEL"
NUMBERS = "WITH RECURSIVE n(start) AS (SELECT 1 UNION ALL SELECT start + 1 FROM n"


def test_rows_that_are_computed_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    database(path, f"CREATE VIEW {KERNELS} AS {NUMBERS}) SELECT start, start AS end FROM n")
    with pytest.raises(UsageError, match="no report of Nsight Systems"):
        open_timeline(path)


def test_texts_that_are_computed_count(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    database(
        path,
        f"CREATE TABLE {KERNELS} (start INT, end INT, text TEXT AS (hex(zeroblob(400000))))",
        f"INSERT INTO {KERNELS} {NUMBERS} LIMIT 400) SELECT start, start FROM n",
    )
    with pytest.raises(UsageError, match="unpacks to more bytes"):
        open_timeline(path)
    path.unlink()
    database(
        path,
        f"CREATE TABLE {KERNELS} (start INT, end INT, text TEXT AS (hex(zeroblob(40000000))))",
        f"INSERT INTO {KERNELS} VALUES (1, 2)",
    )
    with pytest.raises(UsageError, match="can't be read: string or blob too big"):
        open_timeline(path)


def test_limits_are_far_from_what_profilers_write() -> None:
    content, limits = gzip.decompress(VLLM.read_bytes()), Limits.of(VLLM.stat().st_size)
    assert 10 * len(content) < limits.unpacked
    size = VLLM.stat().st_size
    values = sum(map(content.count, (b"{", b"[", b",")))
    assert 14 * size < len(content) < 20 * size and 0.5 * size < values < 1.5 * size
    assert size / 30 < len(json.loads(content)["traceEvents"]) < size / 10


def test_a_large_file_has_larger_limits() -> None:
    small, large = Limits.of(4 * MIB), Limits.of(400 * MIB)
    assert small.unpacked == 232 * MIB and large.unpacked == LARGEST
    assert large.values > 1 << 30 > 200 * MIB == large.events - (1 << 19)

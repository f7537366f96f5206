"""Files are opened by what is in them, and what can't be read says so."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from glmc.errors import UsageError
from glmc.observe.timeline.readers.open import open_timeline
from tests.observe.timeline.sample import VLLM


def test_packed_or_not_and_whatever_the_name(tmp_path: Path) -> None:
    packed = shutil.copy(VLLM, tmp_path / "a.trace")
    plain = tmp_path / "b"
    plain.write_bytes(gzip.decompress(VLLM.read_bytes()))
    one, other = open_timeline(packed), open_timeline(plain)
    assert one.events == other.events and one.label == str(packed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "of no profiler that is known"),
        (b"{", "the file is no JSON"),
        (b"\xff\xfe\x00", "of no profiler that is known"),
        (b"some,csv\n1,2\n", "of no profiler that is known"),
        (b'{"traceEvents": [{"ph": "X", "name": "a", "pid": 1}]}', "no work of a device"),
        (b'{"schemaVersion": 1, "traceEvents": [{"ph": "M"}]}', "no work of a device"),
        (b"{}", "of no profiler that is known"),
        (b'{"traceEvents": []}', "of no profiler that is known"),
        (b"[" * 100_000, "the file is no JSON"),
        (VLLM.read_bytes()[:900], "can't be unpacked"),
        (VLLM.read_bytes()[:900] + b"x" * 99, "can't be unpacked"),
    ],
)
def test_what_is_no_profilers_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        open_timeline(path)
    assert caught.value.place == str(path)


def test_a_report_that_is_not_exported_says_how(tmp_path: Path) -> None:
    path = tmp_path / "a.nsys-rep"
    path.write_bytes(b"\x00\x01")
    with pytest.raises(UsageError, match="nsys export --type sqlite"):
        open_timeline(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"some,csv\n1,2\n", "a text that begins with 'some,csv'"),
        (b"\x00\x01\xff", "a binary file that begins with 00 01 ff"),
        (b'{"task": "statistics", "data": {}}', "JSON with 'task', 'data'"),
        (b'{"traceEvents": []}', "JSON whose traceEvents are empty"),
        (b"[]", "JSON, a list without events"),
    ],
)
def test_what_was_found_is_said(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        open_timeline(path)
    assert caught.value.found == found


def test_a_record_of_values_is_for_align(tmp_path: Path) -> None:
    path = tmp_path / "port.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\n" * 4_000_000)
    with pytest.raises(UsageError, match="an HDF5 file") as caught:
        open_timeline(path)
    assert "glmc align" in str(caught.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UsageError, match="can't be read"):
            open_timeline(path)

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


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UsageError, match="can't be read"):
            open_timeline(path)

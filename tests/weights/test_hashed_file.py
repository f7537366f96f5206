"""Files hashed while they are written, in whole blocks, and what goes wrong."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc.errors import CheckpointError
from glmc.weights import hashed_file
from glmc.weights.file_ranges import pieces_of
from glmc.weights.hashed_file import HashedFile
from glmc.weights.source import FileRange

DATA = bytes(range(256)) * 4000


@pytest.fixture
def source(tmp_path: Path) -> FileRange:
    path = tmp_path / "source"
    path.write_bytes(b"before" + DATA)
    return FileRange(path, 6, len(DATA), torch.uint8, "w")


def hashing() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("hash of")]


@pytest.mark.parametrize("block", [1, 7, 4096, len(DATA) + 6, 2 << 20])
def test_hash_of_ranges_tensors_and_bytes(
    tmp_path: Path, source: FileRange, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DATA if block > 7 else DATA[:5000]
    source = FileRange(source.path, 6, len(data), torch.uint8, "w")
    monkeypatch.setattr(hashed_file, "_BLOCK", block)
    monkeypatch.setattr(hashed_file, "_AHEAD", 100_000)
    with HashedFile(tmp_path / "file") as file:
        file.append(b"header")
        file.append(source)
        file.append(torch.arange(6, dtype=torch.int32).view(2, 3).t())
        file.append(torch.empty(0))
        file.end()
        written = file.written()
    tail = torch.tensor([0, 3, 1, 4, 2, 5], dtype=torch.int32).numpy().tobytes()
    assert (tmp_path / "file").read_bytes() == b"header" + data + tail
    assert written.size == 6 + len(data) + len(tail)
    assert written.sha256 == hashlib.sha256(b"header" + data + tail).hexdigest()
    assert not hashing()


def test_only_whole_blocks_are_written_before_the_end(
    tmp_path: Path, source: FileRange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each at a multiple of its size, however the bytes come: so large pages can hold them."""
    monkeypatch.setattr(hashed_file, "_BLOCK", 4096)
    write, sizes = os.write, []

    def seen(descriptor: int, data: memoryview) -> int:
        sizes.append(len(data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", seen)
    with HashedFile(tmp_path / "file") as file:
        for part in (b"header", source, torch.zeros(3), source, b"more"):
            file.append(part)
        file.end()
        file.written()
    size = 2 * len(DATA) + 22
    assert sizes == [4096] * (size // 4096) + [size % 4096]


def test_a_source_cut_short(tmp_path: Path, source: FileRange) -> None:
    os.truncate(source.path, len(DATA) // 2)
    with (
        HashedFile(tmp_path / "file") as file,
        pytest.raises(CheckpointError, match="ends inside tensor 'w'"),
    ):
        file.append(source)
    with pytest.raises(CheckpointError, match="ends inside tensor 'w'"):
        list(pieces_of(source, memoryview(bytearray(1000))))
    source.path.unlink()
    with (
        HashedFile(tmp_path / "other") as file,
        pytest.raises(CheckpointError, match="can't be read"),
    ):
        file.append(source)


def test_a_full_disk_is_of_the_target(
    tmp_path: Path, source: FileRange, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(hashed_file, "_BLOCK", 4096)
    monkeypatch.setattr(os, "write", fail)
    with HashedFile(tmp_path / "file") as file, pytest.raises(OSError) as caught:
        file.append(source)
    assert caught.value.errno == errno.ENOSPC


def test_what_the_thread_meets_is_raised_where_the_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashed_file, "_AHEAD", 10)
    monkeypatch.setattr(hashed_file, "_BLOCK", 1000)

    def fail(*_: Any) -> int:
        raise OSError(errno.EIO, "of the disk")

    with HashedFile(tmp_path / "file") as file:
        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(OSError, match="of the disk"):
            file.append(DATA)


def test_a_file_cut_short_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    with HashedFile(tmp_path / "file") as file, pytest.raises(OSError, match="cut short"):
        file.append(DATA)
        file.end()
        file.written()


def test_an_abandoned_file_leaves_no_thread(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), HashedFile(tmp_path / "file") as file:
        file.append(DATA)
        raise KeyboardInterrupt
    assert not hashing()

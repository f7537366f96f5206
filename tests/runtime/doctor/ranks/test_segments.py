"""Segments of shared memory: stale ones are told and stay; used, young and foreign ones are not."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

import pytest

from glmc_runtime.doctor.ranks.segments import known_segments, segments


def made(folder: Path, name: str, age: float = 3600.0) -> Path:
    path = folder / name
    path.write_bytes(b"x" * 4096)
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("bkcl_shm_17", "BKCL"),
        ("XCCL-ring-0", "BKCL"),
        ("nccl-a1B2c3", "NCCL"),
        ("torch_999999999_1_0", "torch"),
        ("glmc-step", "glmc"),
        ("psm_1a2b3c", "Python"),
    ],
)
def test_a_stale_one_is_told_and_not_removed(tmp_path: Path, name: str, owner: str) -> None:
    path = made(tmp_path, name)
    found = segments(tmp_path)
    assert found.verdict == "warning"
    assert found.values["stale"] == [str(path)]
    assert found.lines[1].startswith(f"  rm {path}  ({owner}, 4.0 KiB, 1.0 h old")
    assert path.exists()


def test_other_files_are_nobodys_business(tmp_path: Path) -> None:
    made(tmp_path, "a-database")
    assert segments(tmp_path).verdict == "pass"


def test_a_young_one_may_be_about_to_be_used(tmp_path: Path) -> None:
    made(tmp_path, "bkcl_1", age=1.0)
    assert segments(tmp_path).verdict == "pass"


def test_one_that_is_open_or_mapped_is_used(tmp_path: Path) -> None:
    opened, mapped = made(tmp_path, "bkcl_open"), made(tmp_path, "bkcl_mapped")
    with opened.open("rb"):
        with mapped.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
        assert segments(tmp_path).verdict == "pass"
        memory.close()
        assert segments(tmp_path).values["stale"] == [str(mapped)]
    assert len(segments(tmp_path).values["stale"]) == 2


def test_one_whose_name_tells_of_a_living_process_is_used(tmp_path: Path) -> None:
    made(tmp_path, f"torch_{os.getpid()}_5_0")
    (known,) = known_segments(tmp_path)
    assert known.process == os.getpid()
    assert segments(tmp_path).verdict == "pass"


def test_many_are_counted(tmp_path: Path) -> None:
    for number in range(12):
        made(tmp_path, f"bkcl_{number:02}")
    found = segments(tmp_path)
    assert found.lines[0].startswith("12 in ") and found.lines[-1] == (
        "  and 4 more (--json lists all)"
    )
    assert len(found.values["stale"]) == 12


def test_a_machine_without_shared_memory_has_none(tmp_path: Path) -> None:
    assert segments(tmp_path / "none").verdict == "not here"

"""Artifacts with something wrong, made of one that is right."""

from __future__ import annotations

import shutil
from pathlib import Path


def cut_short(artifact: Path, place: Path) -> Path:
    """A copy whose largest file has lost its second half."""
    copy = _copy(artifact, place)
    largest = max((file for file in copy.rglob("*") if file.is_file()), key=_size)
    with largest.open("r+b") as file:
        file.truncate(_size(largest) // 2)
    return copy


def flipped(artifact: Path, place: Path) -> Path:
    """A copy with one bit of the plan for decode turned, in the middle of it."""
    copy = _copy(artifact, place)
    plan = copy / "plans" / "decode.json"
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)
    return copy


def _copy(artifact: Path, place: Path) -> Path:
    return Path(shutil.copytree(artifact, place))


def _size(file: Path) -> int:
    return file.stat().st_size

"""Headers of safetensors files: agreement with the library, and every kind of damage."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from glmc.errors import CheckpointError
from glmc.weights.safetensors_header import DTYPE_OF_CODE, encode_header, read_header


def raw(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    tensors = {
        str(dtype): torch.zeros((3, 5), dtype=torch.float32).to(dtype)
        for dtype in DTYPE_OF_CODE.values()
    }
    tensors["scalar"] = torch.tensor(1.0)
    tensors["empty"] = torch.empty(0, 4)
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    found = read_header(tmp_path / "a.safetensors")
    assert {name: (item.dtype, item.shape) for name, item in found.items()} == {
        name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()
    }


def test_encode_header_aligns_and_reads_back(tmp_path: Path) -> None:
    header = encode_header([("a", torch.float32, (2, 3)), ("b", torch.bfloat16, (5,))])
    assert len(header) % 64 == 0
    path = tmp_path / "a.safetensors"
    path.write_bytes(header + bytes(24 + 10))
    found = read_header(path)
    assert (found["a"].begin, found["b"].begin) == (len(header), len(header) + 24)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "header"),
        (b"\x01\x00", "header"),
        (struct.pack("<Q", 1000) + b"{}", "1000 bytes in a file of 10 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", "header"),
        (struct.pack("<Q", 2) + b"[]", "JSON object"),
        (struct.pack("<Q", 4) + b"{abc", "JSON header"),
        (struct.pack("<Q", 2) + b"\xff\xfe", "JSON header"),
        (struct.pack("<Q", 100_000) + b"[" * 100_000, "JSON header"),
        (struct.pack("<Q", 5006) + b'{"a":' + b"9" * 5000 + b"}", "JSON header"),
    ],
)
def test_damaged_headers(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert caught.value.place == str(path)
    assert caught.value.remedy
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "item",
    [
        entry([2], 0, 8) | {"shape": None},
        entry([2], 0, 4),
        entry([2], 8, 0),
        entry([-2], 0, 8),
        entry([2], -8, 0),
        entry([2], 0, 8) | {"data_offsets": [0]},
        entry([2.0], 0, 8),  # type: ignore[list-item]
        entry([4], 0, 16),
        entry([1 << 62], 0, 1 << 64),
        ["F32", [2], [0, 8]],
        {"shape": [2], "data_offsets": [0, 8]},
    ],
)
def test_damaged_entries(tmp_path: Path, item: object) -> None:
    path = raw(tmp_path / "bad.safetensors", {"weight": item}, bytes(8))
    with pytest.raises(CheckpointError, match="truncated or damaged") as caught:
        read_header(path)
    assert "'weight'" in caught.value.expected


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"first": torch.zeros(4), "second": torch.zeros(400)}, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="'second'"):
        read_header(path)


def test_unknown_dtype_and_absent_file(tmp_path: Path) -> None:
    path = raw(tmp_path / "a.safetensors", {"weight": entry([2], 0, 1, "F4")}, bytes(1))
    with pytest.raises(CheckpointError, match="dtype that glmc can't read"):
        read_header(path)
    with pytest.raises(CheckpointError, match="No such file"):
        read_header(tmp_path / "absent.safetensors")

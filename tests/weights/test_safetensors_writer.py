"""Streamed files are what the safetensors library reads, and memory stays bounded."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from glmc.errors import PackError
from glmc.weights.safetensors_writer import TensorSpec, file_size, plan_shards, write_file

TENSORS = {
    "half": torch.randn(7, 3).to(torch.bfloat16),
    "full": torch.randn(5),
    "ids": torch.arange(9).view(3, 3),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 4),
    "bytes": torch.arange(3, dtype=torch.uint8),
}
SPECS = [TensorSpec(name, item.dtype, tuple(item.shape)) for name, item in TENSORS.items()]


def pieces(spec: TensorSpec) -> Iterator[Tensor]:
    yield from TENSORS[spec.name].flatten().split(2)


def test_library_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    (shard,) = plan_shards(SPECS)
    counted: list[int] = []
    written = write_file(path, shard, pieces, counted.append)
    found = load_file(path)
    assert set(found) == set(TENSORS)
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    assert written.size == path.stat().st_size == file_size(shard)
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sum(counted) == sum(spec.bytes for spec in SPECS)


def test_wider_dtypes_go_first() -> None:
    (shard,) = plan_shards(SPECS)
    offset = 0
    for spec in shard:
        assert offset % spec.dtype.itemsize == 0
        offset += spec.bytes


def test_shards() -> None:
    specs = [TensorSpec(str(size), torch.uint8, (size,)) for size in (3, 4, 4, 20, 1, 9, 10)]
    shards = plan_shards(specs, 10)
    assert [[spec.name for spec in shard] for shard in shards] == [
        ["3", "4"],
        ["4"],
        ["20"],
        ["1", "9"],
        ["10"],
    ]
    assert plan_shards([]) == []


@pytest.mark.parametrize(
    "stream",
    [
        lambda spec: iter([torch.zeros(3)]),
        lambda spec: iter([torch.zeros(5)]),
        lambda spec: iter([torch.zeros(4, dtype=torch.int32)]),
        lambda spec: iter([]),
    ],
    ids=["short", "long", "dtype", "none"],
)
def test_streams_that_do_not_fill(tmp_path: Path, stream: object) -> None:
    spec = TensorSpec("w", torch.float32, (4,))
    with pytest.raises(PackError, match="does not fill"):
        write_file(tmp_path / "a.safetensors", [spec], stream)  # type: ignore[arg-type]


def test_existing_files_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        write_file(path, SPECS, pieces)
    assert path.read_text() == "mine"


SCRIPT = """
import os, resource, sys
from pathlib import Path
import torch
from glmc.presets.fields import read_fields
from glmc.presets.parameters import parameter_shapes
from glmc.weights.checkpoint import open_checkpoint
from glmc.artifact.packing import Packer, Tally
from glmc.ir.layout import even
from glmc.ir.recipe import Concatenate, Dealt, Source, Weight
from glmc.weights.safetensors_header import encode_header
from glmc.weights.safetensors_writer import TensorSpec
from tests.support.checkpoints import tiny_file

root, ranks, axis = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
dtype = getattr(torch, sys.argv[4])
config = tiny_file("glm-4.7", moe_intermediate_size=2048, hidden_size=2048, n_routed_experts=40)
fields = read_fields(config, place="test")
shapes = parameter_shapes(fields, stacked_experts=False)
header = encode_header([(name, torch.bfloat16, shape) for name, shape in shapes.items()])
size = len(header) + sum(2 * torch.Size(shape).numel() for shape in shapes.values())
(root / "model.safetensors").write_bytes(header)
os.truncate(root / "model.safetensors", size)  # a file with a hole: no disk, reads as zeros
source = open_checkpoint(root, fields)
names = [f"model.layers.{layer}.mlp.experts.gate_up_proj" for layer in (1, 2)]
parts = tuple(Source(name, source.shape(name)) for name in names)
shape = [80, 4096, 2048]
recipe = Dealt(Concatenate(parts), axis, even(shape[axis], ranks))
shape[axis] //= ranks
weight = Weight("w", tuple(shape), dtype, recipe)
spec = TensorSpec("w", weight.dtype, weight.shape)
packer = Packer([weight], source, ranks, 16 << 20, Tally([weight], ranks, lambda progress: None))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
size = sum(entry.size for entry in packer.write(root, [[spec]]).values())
print(size, peak() - before, peak())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "axis", "dtype"),
    [
        (1, 0, "bfloat16"),
        (8, 0, "bfloat16"),
        (8, 1, "bfloat16"),
        (8, 2, "bfloat16"),
        (8, 2, "half"),
    ],
)
def test_peak_memory_of_a_large_weight(tmp_path: Path, ranks: int, axis: int, dtype: str) -> None:
    """1.3 GB written; the process grows by a few pieces of 16 MiB and stays under 2 GB in all,
    copied or cast, in whole rows and in columns of 8 ranks."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(ranks), str(axis), dtype],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )
    shutil.rmtree(tmp_path / "weights", ignore_errors=True)
    assert run.returncode == 0, run.stderr
    size, growth, peak = map(int, run.stdout.split())
    assert size > 1_300_000_000
    assert growth < 400_000_000
    assert peak < 2_000_000_000

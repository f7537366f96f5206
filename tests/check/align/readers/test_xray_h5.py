"""Records as HDF5: ours, another tool's, and files that want to be neither."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from glmc.check.align.readers.open import open_record
from glmc.check.align.readers.xray_h5 import XrayH5
from glmc_runtime.errors import RecordError
from glmc_runtime.format.tensor_key import TensorKey
from glmc_runtime.record.h5_file import H5File
from glmc_runtime.record.keep import Keep
from glmc_runtime.record.statistics import recorded_statistics
from glmc_runtime.record.tensors import RecordedTensor, Statistics
from tests.support.command import ROOT


def key(module: str) -> TensorKey:
    return TensorKey(module, "Linear", 0, "forward_output", "0")


def ours(path: Path, keep: Keep | None = None) -> Path:
    """A record of two steps with a value of each kind."""
    values = torch.arange(24.0).view(1, 6, 4).bfloat16()
    with H5File(path, keep) as sink:
        sink.describe({"prompts": [[1, 2]], "tokens": [[3]], "emulated": True})
        for step in (0, 1):
            sink.begin(step, (6,))
            facts = {"layer": 3, "passes": ["rope", "moe_gate"], "node": "z#add"}
            sink.write([key("z"), key("a")], values, facts)
            sink.write([key("ids")], torch.tensor(7), {})
    return path


def foreign(path: Path) -> Path:
    """What torch_xray's documentation shows, by plain calls: another step, no attributes of ours,
    parameters, and a class that a parent has twice."""
    names = [
        "patch_embed.proj.Conv3d.0.forward_params.weight",
        "patch_embed.proj.Conv3d.0.forward_input.0",
        "patch_embed.proj.Conv3d.0.forward_output.0",
        "blocks.0.norm1.LayerNorm.0.forward_output.0",
        "blocks.0.norm2.LayerNorm.1.forward_output.0",
    ]
    with h5py.File(path, "w", track_order=True) as file:
        file.attrs["xray_version"] = "2.0.3"
        file.create_group("meta")["unrelated"] = 1
        group = file.create_group("1", track_order=True)
        for number, name in enumerate(names):
            data = group.create_dataset(
                name, data=np.full((2, 3), number, "float16"), compression="gzip"
            )
            data.attrs["device"] = "xpu:0"
            data.attrs["shape"] = "(2, 3)"  # of its own making
            data.attrs["dtype"] = "torch.float16"
        group["rng_state"] = np.zeros(3)
        group.create_dataset("a.Linear.0.forward_input.0", data="a text")
    return path


def tensors(path: Path) -> list[RecordedTensor]:
    record = open_record(path)
    assert isinstance(record, XrayH5)
    return list(record.tensors())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.h5"


def test_ours_come_back_as_they_were_written(path: Path) -> None:
    record = open_record(ours(path))
    assert record.label == str(path)
    facts = dict(record.facts)
    assert (facts["tool"], facts["prompts"], facts["emulated"]) == ("glmc", [[1, 2]], True)
    found = list(record.tensors())
    assert [(each.step, each.order, each.key.module) for each in found] == [
        *((0, 0, "z"), (0, 1, "a"), (0, 2, "ids")),
        *((1, 3, "z"), (1, 4, "a"), (1, 5, "ids")),
    ]
    first, second, third = found[:3]
    assert first.key == key("z") and first.dtype == "bfloat16" and first.shape == (1, 6, 4)
    assert first.statistics is not None and first.statistics.maximum == 23
    assert first.facts == {"layer": 3, "passes": ("rope", "moe_gate"), "node": "z#add"}
    assert first.load is not None and second.load is not None and third.load is not None
    assert torch.equal(first.load(), torch.arange(24.0).view(1, 6, 4).bfloat16())
    assert first.load().dtype == torch.bfloat16 and torch.equal(second.load(), first.load())
    assert third.shape == () and third.load().item() == 7 and third.load().dtype == torch.int64


def test_rows_are_named_and_loaded(path: Path) -> None:
    first, *_ = tensors(ours(path, Keep("rows", 2)))
    assert first.rows == (0, 5) and first.shape == (1, 6, 4)
    assert first.load is not None and first.load()[:, 0].tolist() == [0, 20]


def test_of_statistics_nothing_can_be_loaded(path: Path) -> None:
    first, *_ = tensors(ours(path, Keep("statistics")))
    assert first.load is None and first.shape == (1, 6, 4) and first.dtype == "bfloat16"
    assert first.statistics is not None and recorded_statistics(first) is first.statistics


def test_another_tools_file_is_read_as_far_as_it_is_known(path: Path) -> None:
    record = open_record(foreign(path))
    assert record.facts["xray_version"] == "2.0.3" and record.facts["skipped"] == ["rng_state"]
    found = list(record.tensors())
    assert [str(each.key) for each in found] == [
        "patch_embed.proj.Conv3d.0.forward_params.weight",
        "patch_embed.proj.Conv3d.0.forward_input.0",
        "patch_embed.proj.Conv3d.0.forward_output.0",
        "blocks.0.norm1.LayerNorm.0.forward_output.0",
        "blocks.0.norm2.LayerNorm.1.forward_output.0",
    ]
    last = found[-1]
    assert (last.step, last.order, last.dtype, last.shape) == (1, 4, "float16", (2, 3))
    assert last.statistics is None and not last.facts
    assert recorded_statistics(last) == Statistics(4, 4, 4, 0, 0, 0)


def test_steps_are_in_the_order_of_their_numbers(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for step in ("10", "9"):
            file[f"{step}/a.Linear.0.forward_output.0"] = np.zeros(1)
    assert [each.step for each in tensors(path)] == [9, 10]


@pytest.mark.parametrize("dtype", [">f4", ">i2", "f8", "u1", "?"])
def test_what_numpy_stores_torch_reads(path: Path, dtype: str) -> None:
    with h5py.File(path, "w") as file:
        file["0/a.Linear.0.forward_output.0"] = np.array([0, 1, 1], dtype)
    (tensor,) = tensors(path)
    assert tensor.load is not None and tensor.load().tolist() == [0, 1, 1]


@pytest.mark.parametrize("content", ["", "a text", "\x89HDF\r\n\x1a\n and then not"])
def test_what_is_no_record_is_refused(path: Path, content: str) -> None:
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(RecordError):
        open_record(path)


def test_a_file_without_tensors_of_modules_is_refused(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["weights/a"] = np.zeros(3)
        file["0/whatever"] = np.zeros(3)
    with pytest.raises(RecordError, match="no tensors of modules"):
        open_record(path)


NAME = "a.Linear.0.forward_output.0"


def link_outside(file: Any, path: Path) -> None:
    file["0"][NAME] = h5py.ExternalLink("/dev/stdin", "/x")


def link_inside(file: Any, path: Path) -> None:
    file["0"][NAME] = h5py.SoftLink("/0/nowhere")


def external(file: Any, path: Path) -> None:
    secret = path.parent / "secret"
    secret.write_bytes(b"x" * 12)
    file["0"].create_dataset(NAME, (3,), "f4", external=[(str(secret), 0, 12)])


def virtual(file: Any, path: Path) -> None:
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (3,))
    file["0"].create_virtual_dataset(NAME, layout)


def a_group(file: Any, path: Path) -> None:
    file["0"][NAME] = file["0"]


@pytest.mark.parametrize("make", [link_outside, link_inside, external, virtual, a_group])
def test_nothing_outside_of_the_file_is_opened(path: Path, make: Any) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("0")
        make(file, path)
    record = open_record(path)
    with pytest.raises(RecordError, match="can't be read"):
        list(record.tensors())


def test_a_tensor_of_absurd_size_is_not_loaded(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset(f"0/{NAME}", (1 << 50,), "f4", chunks=(1 << 20,))
        file.create_dataset(f"1/{NAME}", (1 << 20,), "f4")
    for tensor in tensors(path):
        assert tensor.load is not None
        with pytest.raises(RecordError, match="larger than what is stored") as caught:
            tensor.load()
        error = caught.value
        assert error.code and NAME in error.place and error.remedy
        assert error.expected.endswith("packed ones at most") and "of none" in error.found


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("shape", [2, 2]),
        ("shape", [-1, -4]),
        ("shape", "text"),
        ("rows", [0]),
        ("rows", [0.5]),
        ("rows", [99]),
        ("statistics", [1.0]),
        ("statistics", [0.0, 0.0, 0.0, 0.0, math.nan, 0.0]),
        ("statistics", "text"),
        ("passes", "{"),
        ("passes", 3),
    ],
)
def test_attributes_of_ours_that_contradict_the_elements_are_refused(
    path: Path, attribute: str, value: Any
) -> None:
    ours(path)
    with h5py.File(path, "r+") as file:
        file["0"][str(key("z"))].attrs[attribute] = value
    with pytest.raises(RecordError, match="can't be read"):
        tensors(path)


def test_a_truncated_file_is_refused_at_every_length(path: Path) -> None:
    whole = ours(path).read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        with pytest.raises(RecordError):
            for tensor in open_record(path).tensors():
                assert tensor.load is not None
                tensor.load()


FLIPPED = """
import random, sys
from pathlib import Path
from glmc.check.align.readers.open import open_record
from glmc_runtime.errors import RecordError
path = Path(sys.argv[1])
whole = path.read_bytes()
chance = random.Random(0)
for _ in range(25):
    broken = bytearray(whole)
    for _ in range(3):
        broken[chance.randrange(len(broken))] = chance.randrange(256)
    path.write_bytes(broken)
    try:
        for tensor in open_record(path).tensors():
            tensor.load()
    except RecordError:
        pass
"""


def test_damaged_bytes_are_an_error_of_ours_or_nothing(path: Path) -> None:
    """In a process of its own: it is a library in C that reads them."""
    done = subprocess.run(
        [sys.executable, "-c", FLIPPED, str(foreign(path))],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]

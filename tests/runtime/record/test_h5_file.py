"""Records as HDF5, as h5py and pandas read them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from glmc_runtime.errors import RequestError
from glmc_runtime.format.tensor_key import TensorKey
from glmc_runtime.record.h5_file import H5File
from glmc_runtime.record.keep import Keep
from glmc_runtime.record.sink import Part
from tests.support.command import ROOT


def key(module: str, name: str = "0") -> TensorKey:
    return TensorKey(module, "Linear", 0, "forward_output", name)


def stored(path: Path, step: int, module: str) -> Any:
    """A dataset's elements and attributes."""
    with h5py.File(path) as file:
        data = file[str(step)][str(key(module))]
        return (None if data.shape is None else data[()]), dict(data.attrs)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.h5"


def test_the_layout_is_torch_xrays(path: Path) -> None:
    """Steps as groups, datasets by key, in order of execution and not of names."""
    with H5File(path) as sink:
        for step in (0, 1):
            sink.begin(step, (3,))
            for module in ("z", "a", "m.10", "m.9"):
                sink.write([key(module)], torch.ones(1, 3, 2), {})
    with h5py.File(path) as file:
        assert list(file) == ["0", "1"]
        names = [f"{name}.Linear.0.forward_output.0" for name in ("z", "a", "m.10", "m.9")]
        assert list(file["0"]) == list(file["1"]) == names
        assert file["0"][names[0]].shape == (1, 3, 2)


def test_a_dataset_says_what_it_is(path: Path) -> None:
    facts = {"layer": 3, "node": "z#add", "passes": ["rope"], "source": "a.py:1", "op": None}
    values = torch.tensor([[1.0, 3.0, math.nan]])
    with H5File(path) as sink:
        sink.begin(0, (1,))
        sink.write([key("z")], values, facts)
    elements, attributes = stored(path, 0, "z")
    assert np.array_equal(elements, values.numpy(), equal_nan=True)
    assert attributes.pop("statistics").tolist() == [1, 3, 2, 1, 1, 0]
    assert attributes.pop("shape").tolist() == [1, 3]
    assert attributes == {
        "dtype": "float32",
        "layer": 3,
        "node": "z#add",
        "passes": json.dumps(["rope"]),
        "source": "a.py:1",
    }


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        (torch.bfloat16, "float32"),
        (torch.float8_e4m3fn, "float32"),
        (torch.float16, "float16"),
        (torch.float64, "float64"),
        (torch.int64, "int64"),
        (torch.bool, "bool"),
    ],
)
def test_no_dtype_loses_a_bit(path: Path, dtype: torch.dtype, kept: str) -> None:
    values = torch.tensor([0.0, 1.0, 1.75, -0.0]).to(dtype)
    with H5File(path) as sink:
        sink.begin(0, (1,))
        sink.write([key("z")], values, {})
    elements, attributes = stored(path, 0, "z")
    assert elements.dtype == kept and attributes["dtype"] == str(dtype).removeprefix("torch.")
    assert torch.equal(torch.from_numpy(elements).to(dtype).double(), values.double())


@pytest.mark.parametrize("values", [torch.tensor(7), torch.empty(1, 0, 4), torch.ones(5)[::2]])
def test_every_shape_is_stored(path: Path, values: torch.Tensor) -> None:
    with H5File(path) as sink:
        sink.begin(0, (1,))
        sink.write([key("z")], values, {})
    elements, attributes = stored(path, 0, "z")
    assert elements.shape == tuple(values.shape) == tuple(attributes["shape"])
    assert np.array_equal(elements, values.numpy())


def test_further_keys_are_hard_links(path: Path) -> None:
    with H5File(path) as sink:
        sink.begin(0, (1,))
        sink.write([key("a"), key("b")], torch.ones(3), {})
        sink.link(key("c"), 0, key("a"))
        sink.begin(1, (1,))
        sink.link(key("d"), 0, key("a"))
        assert sink.count == 1
    with h5py.File(path) as file:
        data = file["0"][str(key("a"))]
        others = (file["0"][str(key("b"))], file["0"][str(key("c"))], file["1"][str(key("d"))])
        assert all(data == other for other in others)
    summary = pd.read_csv(path.with_name("run_summary.csv"))
    assert list(summary["Module"]) == [str(key(name)) for name in "abcd"]
    assert list(summary["Step"]) == [0, 0, 0, 1] and set(summary["Max"]) == {1.0}


def test_rows_are_chosen_of_the_whole_tensor(path: Path) -> None:
    values = torch.arange(80.0).view(1, 10, 2, 4)
    with H5File(path, Keep("rows", 3)) as sink:
        sink.begin(0, (10,))
        sink.write([key("z")], values, {})
        sink.write([key("small")], values[:, :1], {})
    elements, attributes = stored(path, 0, "z")
    assert attributes["rows"].tolist() == [0, 9, 19]
    assert np.array_equal(elements, values.reshape(20, 4)[[0, 9, 19]].numpy())
    assert attributes["shape"].tolist() == [1, 10, 2, 4]
    assert attributes["statistics"][1] == 79
    elements, attributes = stored(path, 0, "small")
    assert elements.shape == (1, 1, 2, 4) and "rows" not in attributes


def test_statistics_need_no_elements(path: Path) -> None:
    with H5File(path, Keep("statistics")) as sink:
        sink.begin(0, (1,))
        sink.write([key("z")], torch.ones(2, 3).bfloat16(), {})
    elements, attributes = stored(path, 0, "z")
    assert elements is None
    assert (attributes["dtype"], attributes["shape"].tolist()) == ("bfloat16", [2, 3])
    assert attributes["statistics"].tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("keep", ["all", "rows:4", "statistics"])
@pytest.mark.parametrize(
    ("shape", "axis"), [((1, 7, 3), 1), ((2, 7, 3), 1), ((7,), 0), ((1, 7), 1)]
)
def test_parts_are_the_whole(path: Path, keep: str, shape: tuple[int, ...], axis: int) -> None:
    """Sequences of 2, 4 and 1 tokens, one after the other."""
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with H5File(path, Keep.parse(keep)) as sink:
        sink.begin(0, (2, 4, 1))
        sink.write([key("whole")], whole, {})
        for begin, count in ((0, 2), (2, 4), (6, 1)):
            sink.write([key("z")], whole.narrow(axis, begin, count), {}, Part(axis, begin, 7))
    elements, attributes = stored(path, 0, "z")
    wanted, others = stored(path, 0, "whole")
    assert np.array_equal(elements, wanted)
    assert attributes["statistics"] == pytest.approx(others["statistics"], rel=1e-12)
    del attributes["statistics"], others["statistics"]
    assert {name: list(value) for name, value in attributes.items()} == {
        name: list(value) for name, value in others.items()
    }


def test_a_tensor_that_lacks_a_part_is_left_out(path: Path) -> None:
    with H5File(path) as sink:
        sink.begin(0, (2, 3))
        sink.write([key("z"), key("y")], torch.ones(2, 3), {}, Part(0, 0, 5))
        sink.write([key("whole")], torch.ones(2, 3), {})
    with h5py.File(path) as file:
        assert list(file["0"]) == [str(key("whole"))]
    assert sink.count == len(pd.read_csv(path.with_name("run_summary.csv"))) == 1


def test_long_prompts_fit_into_the_attributes(path: Path) -> None:
    prompts = [list(range(100_000, 130_000))]
    with H5File(path) as sink:
        sink.describe({"prompts": prompts, "emulated": False, "model": "tiny"})
    with h5py.File(path) as file:
        assert json.loads(file.attrs["prompts"]) == prompts
        assert file.attrs["tool"] == "glmc" and not file.attrs["emulated"]


def test_the_same_run_makes_the_same_bytes(path: Path, tmp_path: Path) -> None:
    """In another second and under another name, as HDF5 could hold either."""
    other = tmp_path / "another.h5"
    for each in (path, other):
        time.sleep(1.1 if each is other else 0)
        with H5File(each) as sink:
            sink.describe({"prompts": [[1] * 40_000]})
            sink.begin(0, (2,))
            sink.write([key("a"), key("b")], torch.ones(4, 4), {"layer": 1})
    assert path.read_bytes() == other.read_bytes()
    summaries = [each.with_name(f"{each.stem}_summary.csv") for each in (path, other)]
    assert summaries[0].read_bytes() == summaries[1].read_bytes()


def test_a_run_that_fails_leaves_nothing(path: Path) -> None:
    with pytest.raises(KeyError), H5File(path) as sink:
        sink.begin(0, (1,))
        sink.write([key("z")], torch.ones(3), {})
        raise KeyError
    assert list(path.parent.iterdir()) == []


def test_a_record_replaces_a_record_and_nothing_else(path: Path) -> None:
    for _ in range(2):
        with H5File(path) as sink:
            sink.begin(0, (1,))
    path.write_text("mine")
    with pytest.raises(RequestError, match="no record of ours"):
        H5File(path)
    with h5py.File(path, "w") as file:
        file.attrs["tool"] = "torch_xray"
    with pytest.raises(RequestError, match="no record of ours"):
        H5File(path)
    path.unlink()
    path.with_name("run_summary.csv").write_text("mine")
    with pytest.raises(RequestError, match="no record of ours"):
        H5File(path)
    with pytest.raises(RequestError, match="can't be written"):
        H5File(path.parent / "nowhere" / "run.h5")


FULL = """
import resource, sys, torch
from glmc_runtime.errors import FileError
from glmc_runtime.format.tensor_key import TensorKey
from glmc_runtime.record.h5_file import H5File
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    with H5File(sys.argv[1]) as sink:
        sink.begin(0, (1,))
        sink.write([TensorKey("a", "B", 0, "forward_output", "0")], torch.ones(1 << 20), {})
except FileError as error:
    print(error)
"""


def test_a_full_disk_is_an_error_with_a_code(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)],
        env={"PYTHONPATH": str(ROOT / "runtime")},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("[GLMC-2009] the record can't be written"), done
    assert "Traceback" not in done.stderr and list(path.parent.iterdir()) == []

"""Measured configurations are found by device, dtype, sizes and rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from glmc_runtime.kernels.cuda import tuned
from glmc_runtime.kernels.cuda.linear.linear import linear
from tests.runtime.kernels.harness import close, nan, random


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "some-gpu-80gb.json"
    entries = {"1": {"variant": "a"}, "16": {"variant": "b"}}
    kernels = {
        "linear": {"bfloat16": {"8x4": entries}, "float32": {"6x8": {"4": {"variant": "c"}}}}
    }
    path.write_text(json.dumps({"device": "Some GPU (80GB)", "kernels": kernels}))
    monkeypatch.setattr(tuned, "TABLES", tmp_path)
    monkeypatch.setattr(tuned, "device_name", lambda: "Some GPU (80GB)")
    tuned.read_table.cache_clear()
    yield path
    tuned.read_table.cache_clear()


@pytest.mark.parametrize(("rows", "variant"), [(1, "a"), (2, "b"), (16, "b"), (17, None)])
def test_the_smallest_rows_that_are_enough(table: Path, rows: int, variant: str | None) -> None:
    found = tuned.configuration("linear", torch.bfloat16, "8x4", rows)
    assert found == (None if variant is None else {"variant": variant})


def test_what_was_not_measured_has_no_configuration(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tuned.configuration("linear", torch.float16, "8x4", 1) is None
    assert tuned.configuration("linear", torch.bfloat16, "8x5", 1) is None
    assert tuned.configuration("moe_ffn", torch.bfloat16, "8x4", 1) is None
    for name in ("Another GPU", None):
        monkeypatch.setattr(tuned, "device_name", lambda name=name: name)
        assert tuned.configuration("linear", torch.bfloat16, "8x4", 1) is None


def test_what_is_found_may_be_changed(table: Path) -> None:
    for _ in range(2):
        found = tuned.configuration("linear", torch.bfloat16, "8x4", 1)
        assert found == {"variant": "a"}
        found["variant"] = "changed"


def test_a_binder_takes_it_from_the_table(table: Path) -> None:
    content = json.loads(table.read_text())
    x, weight, out = random(3, 8), random(6, 8), nan(3, 6)
    with pytest.raises(Exception, match="'c'"):
        linear({"x": x, "weight": weight, "out": out})
    content["kernels"]["linear"]["float32"]["6x8"]["4"] = {"variant": "cublas"}
    table.write_text(json.dumps(content))
    tuned.read_table.cache_clear()
    linear({"x": x, "weight": weight, "out": out})()
    close(out, x @ weight.t())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("NVIDIA H200", "nvidia-h200"), ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3")],
)
def test_slugs(name: str, expected: str) -> None:
    assert tuned.slug(name) == expected


@pytest.mark.parametrize("path", sorted(tuned.TABLES.glob("*.json")), ids=lambda path: path.stem)
def test_shipped_tables_are_well_formed(path: Path) -> None:
    content = json.loads(path.read_text())
    assert tuned.slug(content["device"]) == path.stem
    for by_dtype in content["kernels"].values():
        for dtype, by_key in by_dtype.items():
            assert isinstance(getattr(torch, dtype), torch.dtype)
            for by_rows in by_key.values():
                assert all(int(rows) > 0 and by_rows[rows] for rows in by_rows)

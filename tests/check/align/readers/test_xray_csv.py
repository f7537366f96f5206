"""Summaries as tables: ours, a foreign csv, and torch_xray's boxed text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from glmc.check.align.readers.open import open_record
from glmc.check.align.readers.xray_csv import XrayCsv
from glmc_runtime.errors import RecordError
from glmc_runtime.format.tensor_key import TensorKey
from glmc_runtime.record.h5_file import H5File
from glmc_runtime.record.tensors import RecordedTensor, Statistics

# As torch_xray's documentation prints it.
BOXED = """\
+-------+------+------+-----------------------------------------------------------+-----------+
| Index | Step | Rank | Module                                                    |       Min |
+-------+------+------+-----------------------------------------------------------+-----------+
|     0 |    1 |    0 | patch_embed.proj.Conv3d.0.forward_params.weight           | -0.077636 |
|     1 |    1 |    0 | rotary_pos_emb.Qwen2_5_VisionRotaryEmbedding.0.forward... |       0.0 |
+-------+------+------+-----------------------------------------------------------+-----------+
"""


def tensors(path: Path) -> list[RecordedTensor]:
    record = open_record(path)
    assert isinstance(record, XrayCsv)
    return list(record.tensors())


def test_ours_has_what_the_record_has(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with H5File(path) as sink:
        for step in range(2):
            sink.begin(step, (1,))
            key = TensorKey("a", "Linear", 0, "forward_output", "0")
            values = torch.tensor([[1.0, 3.0, math.nan]]).bfloat16()
            sink.write([key], values, {"node": "a#add"})
    for each, whole in zip(
        tensors(tmp_path / "run_summary.csv"), open_record(path).tensors(), strict=True
    ):
        assert (each.step, each.order, each.key) == (whole.step, whole.order, whole.key)
        assert each.statistics == whole.statistics and each.load is None
        assert (each.dtype, each.shape, each.facts) == ("bfloat16", (1, 3), {"node": "a#add"})


def test_columns_of_others_are_found_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text(
        "\ufeffRANK,module , MAX,min,Shape,Extra\n"
        '0,a.b.Linear.1.forward_input.x,2,-1.5,"torch.Size([2, 3])",7\n'
        "0,no key,1,1,,\n\n"
        "0,a.Linear.0.forward_output.0\n"
    )
    record = open_record(path)
    assert record.facts == {"skipped": ["no key"]}
    first, second = record.tensors()
    assert first.key == TensorKey("a.b", "Linear", 1, "forward_input", "x")
    assert (first.step, first.dtype, first.shape) == (0, "", (2, 3))
    assert first.statistics is not None
    assert (first.statistics.minimum, first.statistics.maximum) == (-1.5, 2)
    assert math.isnan(first.statistics.mean) and math.isnan(first.statistics.std)
    assert second.statistics is not None and math.isnan(second.statistics.maximum)


def test_the_boxed_table_is_read_without_names_that_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "sum.txt"
    path.write_text(BOXED)
    record = open_record(path)
    (tensor,) = record.tensors()
    assert str(tensor.key) == "patch_embed.proj.Conv3d.0.forward_params.weight"
    assert tensor.step == 1 and tensor.statistics is not None
    assert tensor.statistics.minimum == -0.077636
    assert record.facts["skipped"] == ["rotary_pos_emb.Qwen2_5_VisionRotaryEmbedding.0.forward..."]


def test_rows_are_by_step(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    rows = "".join(f"{step},{name}.L.0.forward_output.0\n" for name in "ba" for step in (1, 0))
    path.write_text(f"Step,Module\n{rows}")
    assert [(each.step, each.key.module) for each in tensors(path)] == [
        *((0, "b"), (0, "a"), (1, "b"), (1, "a")),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no summary"),
        (b"a,b\n1,2\n", "no summary"),
        (b"Index,Step,Rank,Module,Min,Max,Mean,Std\n", "no tensors"),
        (b"Module,Min\na.L.0.forward_output.0,x\n", "number"),
        (b"Module,Min\n\xff\xfe\n", "can't be read"),
        (b"Module\n" + b"a" * 200_000 + b"\n", "can't be read"),
    ],
)
def test_what_is_no_summary_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "other.csv"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=words):
        open_record(path)


def test_counts_that_are_no_numbers_are_none(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("Module,Step,nan,Min\na.L.0.forward_output.0,inf,nan,-inf\n")
    (tensor,) = tensors(path)
    found = tensor.statistics
    assert isinstance(found, Statistics) and (tensor.step, found.nan) == (0, 0)
    assert found.minimum == -math.inf


def test_of_several_ranks_the_lowest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ranks.csv"
    lines = [f"{rank},a.Linear.0.forward_output.0,{rank},5" for rank in (10, 2, 9)]
    path.write_text("\n".join(["Rank,Module,Min,Max", *lines]))
    record = open_record(path)
    (only,) = record.tensors()
    assert record.facts == {"read_ranks": 3}
    assert only.statistics is not None and only.statistics.minimum == 2


@pytest.mark.parametrize("digits", [19, 5000])
def test_a_size_of_too_many_digits_is_refused(tmp_path: Path, digits: int) -> None:
    """More than 4300 of them Python does not read, and of parts of them a shape would be made."""
    path = tmp_path / "run.csv"
    path.write_text(f"Step,Module,Shape\n0,a.Linear.0.forward_output.0,{'9' * digits}\n")
    with pytest.raises(RecordError, match="can't be read") as caught:
        tensors(path)
    assert "column shape" in caught.value.place and caught.value.found == "9" * min(digits, 80)

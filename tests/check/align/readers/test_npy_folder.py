"""Folders of dumped tensors: msprobe's, and files that are named by keys."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glmc.check.align.readers.npy_folder import NpyFolder
from glmc.check.align.readers.open import open_record
from glmc_runtime.errors import RecordError
from glmc_runtime.record.statistics import recorded_statistics
from glmc_runtime.record.tensors import RecordedTensor, Statistics

LAYER = "Module.model.layers.0.input_layernorm.Glm4MoeRMSNorm.forward.0"
NORM = "Module.model.layers.0.post_attention_layernorm.Glm4MoeRMSNorm.forward.0"
SILU = "Functional.silu.4.forward"


def leaf(name: str, *shape: int, dtype: str = "torch.float32", **numbers: float) -> dict[str, Any]:
    return {
        **{"type": "torch.Tensor", "dtype": dtype, "shape": list(shape), "data_name": name},
        **{"requires_grad": False, **numbers},
    }


def dump(place: Path) -> Path:
    """One rank of one step, as msprobe lays it out."""
    files = place / "dump_tensor_data"
    files.mkdir(parents=True)
    values = {
        f"{NORM}.input.0.npy": 1,
        f"{NORM}.output.0.npy": 2,
        f"{LAYER}.output.0.npy": 3,
        f"{SILU}.output.0.npy": 4,
    }
    for name, value in values.items():
        np.save(files / name, np.full((2, 3), value, "float32"))
    torch.save(torch.full((2, 3), 5.0).bfloat16(), files / f"{NORM}.kwargs.scale.pt")
    scale = leaf(f"{NORM}.kwargs.scale.pt", 2, 3, dtype="torch.bfloat16")
    data = {
        LAYER: {"input_args": [None], "output": [leaf(f"{LAYER}.output.0.npy", 2, 3)]},
        NORM: {
            "input_args": [[leaf(f"{NORM}.input.0.npy", 2, 3)], {"type": "int", "value": 3}],
            "input_kwargs": {"scale": scale},
            "output": [leaf(f"{NORM}.output.0.npy", 2, 3)],
        },
        "Module.model.layers.0.Layer.backward.0": {"output": [leaf("x.npy", 1)]},
        SILU: {"input_args": [], "output": [leaf(f"{SILU}.output.0.npy", 2, 3)]},
    }
    parent = "Module.model.layers.0.Layer.forward.0"
    construct = {parent: None, LAYER: parent, NORM: parent, SILU: "Module.model.mlp.MLP.forward.0"}
    (place / "dump.json").write_text(json.dumps({"task": "tensor", "data": data}))
    (place / "construct.json").write_text(json.dumps(construct))
    return place


def tensors(path: Path) -> list[RecordedTensor]:
    record = open_record(path)
    assert isinstance(record, NpyFolder) and record.label == str(path)
    return list(record.tensors())


NAMES = [
    "model.layers.0.input_layernorm.Glm4MoeRMSNorm.0.forward_output.0",
    "model.layers.0.post_attention_layernorm.Glm4MoeRMSNorm.1.forward_input.0.0",
    "model.layers.0.post_attention_layernorm.Glm4MoeRMSNorm.1.forward_input.scale",
    "model.layers.0.post_attention_layernorm.Glm4MoeRMSNorm.1.forward_output.0",
    "model.mlp.silu.0.forward_output.0",
]


def test_a_dump_of_msprobe_is_read_in_its_order(tmp_path: Path) -> None:
    found = tensors(dump(tmp_path / "rank"))
    assert [str(each.key) for each in found] == NAMES
    assert [each.order for each in found] == [0, 1, 2, 3, 4]
    loaded = [each.load().float()[0, 0].item() for each in found if each.load is not None]
    assert loaded == [3, 1, 5, 2, 4]
    assert (found[0].dtype, found[0].shape) == ("float32", (2, 3))
    assert found[2].dtype == "bfloat16" and found[0].statistics is None
    assert recorded_statistics(found[0]) == Statistics(3, 3, 3, 0, 0, 0)


def test_a_whole_dump_has_steps_and_ranks(tmp_path: Path) -> None:
    for step in (2, 10):
        for rank in (0, 1):
            dump(tmp_path / f"step{step}" / f"rank{rank}")
    record = open_record(tmp_path)
    assert [each.step for each in record.tensors()] == [2] * 5 + [10] * 5
    assert record.facts == {"read_ranks": 2}
    for place in (tmp_path / "step10", tmp_path / "step10" / "rank1"):
        assert [each.step for each in tensors(place)] == [10] * 5
    files = tmp_path / "step2" / "rank0" / "dump_tensor_data"
    assert [str(each.key) for each in tensors(files)] == NAMES


def test_a_dump_of_statistics_has_those(tmp_path: Path) -> None:
    place = dump(tmp_path / "rank")
    numbers = {"Min": 1.0, "Max": 3.0, "Mean": 2.0, "Norm": 28**0.5}
    data = {LAYER: {"output": [{**leaf("", 6, **numbers), "data_name": None}]}}
    (place / "dump.json").write_text(json.dumps({"data": data}))
    (tensor,) = tensors(place)
    assert tensor.load is None and tensor.statistics is not None
    assert tensor.statistics.std == pytest.approx((28 / 6 - 4) ** 0.5)
    assert (tensor.statistics.minimum, tensor.statistics.mean) == (1, 2)


def test_without_json_the_names_of_files_say_it(tmp_path: Path) -> None:
    place = dump(tmp_path / "step3" / "proc1234")
    (place / "dump.json").unlink()
    found = tensors(tmp_path)
    assert {each.step for each in found} == {3}
    assert [str(each.key) for each in found] == [
        "silu.4.forward_output.0",
        "model.layers.0.input_layernorm.Glm4MoeRMSNorm.0.forward_output.0",
        "model.layers.0.post_attention_layernorm.Glm4MoeRMSNorm.0.forward_input.0",
        "model.layers.0.post_attention_layernorm.Glm4MoeRMSNorm.0.forward_input.scale",
        "model.layers.0.post_attention_layernorm.Glm4MoeRMSNorm.0.forward_output.0",
    ]
    assert found[0].shape == (2, 3) and found[0].dtype == "float32"


def test_files_may_be_named_by_keys(tmp_path: Path) -> None:
    for step in ("0", "1"):
        (tmp_path / step).mkdir()
        for layer in (10, 9):
            np.save(tmp_path / step / f"layers.{layer}.L.0.forward_output.0.npy", np.zeros(2))
        np.save(tmp_path / step / "unrelated.npy", np.zeros(2))
    assert [(each.step, each.key.module) for each in tensors(tmp_path)] == [
        *((0, "layers.9"), (0, "layers.10"), (1, "layers.9"), (1, "layers.10")),
    ]


def test_a_name_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    place = dump(tmp_path / "rank")
    np.save(tmp_path / "secret.npy", np.ones(6))
    for name in ("../../secret.npy", str(tmp_path / "secret.npy"), "a/../../secret.npy"):
        (place / "dump.json").write_text(json.dumps({"data": {LAYER: {"output": [leaf(name, 6)]}}}))
        (tensor,) = tensors(place)
        assert tensor.load is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "[" * 100_000,
        "{}",
        '{"data": []}',
        json.dumps({"data": {LAYER: {"output": [{"shape": "x", "dtype": "y"}]}}}),
        json.dumps({"data": {LAYER: {"output": [{"shape": [-1], "dtype": "y"}]}}}),
        json.dumps({"data": {LAYER: 7, "x": {"output": 3}}}),
    ],
)
def test_what_is_no_dump_is_refused(tmp_path: Path, content: str) -> None:
    place = dump(tmp_path / "rank")
    (place / "dump.json").write_text(content)
    with pytest.raises(RecordError):
        open_record(place)


def test_folders_of_other_things_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no dumped tensors"):
        open_record(tmp_path)
    np.save(tmp_path / "weights.npy", np.zeros(2))
    (tmp_path / "step0").mkdir()
    with pytest.raises(RecordError, match="no dumped tensors"):
        open_record(tmp_path)
    os.mkfifo(tmp_path / "step0" / "dump.json")
    with pytest.raises(RecordError):
        open_record(tmp_path)

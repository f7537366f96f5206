"""The checkpoint reader against transformers' own loading, and against incomplete directories."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from glmc.errors import CheckpointError
from glmc.presets.catalog import load_config
from glmc.presets.fields import read_fields
from glmc.weights.checkpoint import Checkpoint, open_checkpoint
from glmc.weights.files import INDEX
from tests.support.checkpoints import drawn_checkpoint, tiny_checkpoint, tiny_file


def opened(directory: Path) -> Checkpoint:
    return open_checkpoint(directory, load_config(directory).fields)


def whole(checkpoint: Checkpoint, name: str) -> Tensor:
    shape = checkpoint.shape(name)
    return checkpoint.read(name, 0, torch.Size(shape).numel()).view(shape)


def edited(directory: Path, edit: Callable[[dict[str, Tensor]], object]) -> Path:
    """The single-file checkpoint in ``directory`` after ``edit`` of its tensors."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    return directory


@pytest.mark.parametrize("preset", ["glm-4.7", "glm-4.5-air", "glm-4-9b-0414", "glm-4-32b-0414"])
@pytest.mark.parametrize("shard_bytes", [1 << 30, 20_000])
def test_equals_from_pretrained(tmp_path: Path, preset: str, shard_bytes: int) -> None:
    tiny_checkpoint(tmp_path, preset, shard_bytes=shard_bytes)
    checkpoint = opened(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    state = model.state_dict()
    assert (tmp_path / INDEX).exists() == (shard_bytes == 20_000)
    for name, tensor in state.items():
        assert torch.equal(whole(checkpoint, name), tensor), name


def test_stacked_and_separate_experts_are_the_same(tmp_path: Path) -> None:
    separate = opened(tiny_checkpoint(tmp_path / "separate"))
    stacked = opened(tiny_checkpoint(tmp_path / "stacked", stacked_experts=True))
    assert "model.layers.1.mlp.experts.3.up_proj.weight" in separate.names
    assert set(separate.names) == set(stacked.names)
    for name in separate.names:
        assert torch.equal(whole(separate, name), whole(stacked, name)), name


def test_any_range_reads_the_same(tmp_path: Path) -> None:
    checkpoint = opened(tiny_checkpoint(tmp_path))
    name = "model.layers.2.mlp.experts.gate_up_proj"
    full = whole(checkpoint, name).flatten()
    width = 24 * 32
    for begin, count in ((0, 1), (width - 1, 2), (3, 4 * width), (len(full) - 5, 5), (7, 0)):
        assert torch.equal(checkpoint.read(name, begin, count), full[begin : begin + count])


def test_reads_are_bounded_by_what_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = opened(tiny_checkpoint(tmp_path))
    monkeypatch.setattr(Path, "read_bytes", None)
    assert len(checkpoint.read("lm_head.weight", 10, 3)) == 3


def test_tied_embeddings(tmp_path: Path) -> None:
    config = tiny_file("glm-4-9b-0414", tie_word_embeddings=True)
    drawn_checkpoint(tmp_path, config)
    checkpoint = opened(tmp_path)
    embedding = whole(checkpoint, "model.embed_tokens.weight")
    assert torch.equal(whole(checkpoint, "lm_head.weight"), embedding)
    edited(tmp_path, lambda t: t.update({"lm_head.weight": embedding.clone()}))
    checkpoint = opened(tmp_path)
    assert checkpoint.ignored == ("lm_head.weight",)
    assert torch.equal(whole(checkpoint, "lm_head.weight"), embedding)
    edited(tmp_path, lambda t: t.pop("model.embed_tokens.weight"))
    checkpoint = opened(tmp_path)
    assert torch.equal(whole(checkpoint, "model.embed_tokens.weight"), embedding)
    assert torch.equal(whole(checkpoint, "lm_head.weight"), embedding)


def test_a_tied_head_of_another_content(tmp_path: Path) -> None:
    """transformers 5 uses such a head, transformers 4 drops it."""
    drawn_checkpoint(tmp_path, tiny_file("glm-4-9b-0414", tie_word_embeddings=True))
    edited(tmp_path, lambda t: t.update({"lm_head.weight": torch.ones(96, 32).bfloat16()}))
    with pytest.raises(CheckpointError, match="set tie_word_embeddings to false") as caught:
        opened(tmp_path)
    assert "lm_head.weight in model.safetensors" in caught.value.found


def test_untied_without_head_is_missing(tmp_path: Path) -> None:
    edited(tiny_checkpoint(tmp_path), lambda t: t.pop("lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"missing: lm_head\.weight \[96, 32\]"):
        opened(tmp_path)


def test_prediction_layers_are_ignored_whatever_a_field_says(tmp_path: Path) -> None:
    extra = {
        "model.layers.3.eh_proj.weight": torch.ones(2, 2),
        "model.layers.3.mlp.experts.0.up_proj.weight": torch.ones(2, dtype=torch.int8),
        "model.layers.10.input_layernorm.weight": torch.ones(2),
        "a.rotary_emb.inv_freq": torch.ones(2),
    }
    edited(tiny_checkpoint(tmp_path), lambda t: t.update(extra))
    data = tiny_file("glm-4.7")
    del data["num_nextn_predict_layers"]
    for field in ({}, *({"num_nextn_predict_layers": value} for value in (1, 0, None))):
        fields = read_fields(data | field, place="test")
        checkpoint = open_checkpoint(tmp_path, fields)
        assert checkpoint.ignored == tuple(sorted(extra))
        (remark,) = checkpoint.remarks
        assert remark == "3 tensors of layer 3, 10 not read: multi-token prediction"


def test_all_problems_are_in_one_error(tmp_path: Path) -> None:
    expert = "model.layers.1.mlp.experts.4.up_proj.weight"

    def damage(tensors: dict[str, Tensor]) -> None:
        del tensors[expert], tensors["model.norm.weight"]
        tensors["model.layers.0.self_attn.q_proj.weight"] = torch.ones(64, 31)
        tensors["model.layers.0.self_attn.k_proj.weight"] = torch.ones(32, 32, dtype=torch.int8)
        tensors["model.layers.0.self_attn.k_proj.weight_scale"] = torch.ones(1)

    edited(tiny_checkpoint(tmp_path), damage)
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path)
    lines = {line.strip() for line in caught.value.found.splitlines() if line.strip()}
    assert lines == {
        f"missing: {expert} [24, 32]",
        "missing: model.norm.weight [32]",
        "misshapen: model.layers.0.self_attn.q_proj.weight [64, 31] in model.safetensors, "
        "expected [64, 32]",
        "quantised: model.layers.0.self_attn.k_proj.weight in model.safetensors is int8, "
        "expected a float of 16 bits or more",
        "surplus: model.layers.0.self_attn.k_proj.weight_scale in model.safetensors",
    }
    assert "unquantised" in str(caught.value)


def test_index_problems(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path, shard_bytes=20_000)
    index = tmp_path / INDEX
    good = json.loads(index.read_text())
    name, file = next(iter(good["weight_map"].items()))

    def refuse(text: str, words: str) -> None:
        index.write_text(text)
        with pytest.raises(CheckpointError, match=words):
            opened(tmp_path)

    refuse("{", "index of the weights can't be read")
    refuse("{}", "weight_map")
    refuse('{"weight_map": [1]}', "weight_map")
    refuse(json.dumps({"weight_map": {name: "absent.safetensors"}}), r"absent\.safetensors")
    refuse(json.dumps({"weight_map": {name: "../" + tmp_path.name + "/" + file}}), "not in the dir")
    refuse(json.dumps({"weight_map": {"stranger": file}}), f"stranger in {file}")
    refuse(json.dumps({"weight_map": {}}), "no file in 'weight_map'")
    refuse("version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS")
    index.unlink()
    assert opened(tmp_path).names


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights"):
        open_checkpoint(tmp_path, load_config("glm-4.7").fields)


def test_mixed_dtypes_are_cast_as_transformers_casts_them(tmp_path: Path) -> None:
    """A wide expert among narrow ones, a wide norm, a wide router and its correction."""
    kinds = {
        "model.layers.1.mlp.experts.5.down_proj.weight": torch.float32,
        "model.layers.1.mlp.experts.2.up_proj.weight": torch.float16,
        "model.layers.1.mlp.gate.weight": torch.float32,
        "model.layers.0.self_attn.q_proj.weight": torch.float64,
        "model.norm.weight": torch.float16,
    }

    def widen(tensors: dict[str, Tensor]) -> None:
        for name, dtype in kinds.items():
            tensors[name] = (tensors[name].double() * (1 + 2**-10)).to(dtype)

    edited(tiny_checkpoint(tmp_path), widen)
    checkpoint = opened(tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        state = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path, dtype=dtype
        ).state_dict()
        for name, tensor in state.items():
            stored = whole(checkpoint, name)
            assert torch.equal(stored.to(tensor.dtype), tensor), name
    correction = "model.layers.1.mlp.gate.e_score_correction_bias"
    assert checkpoint.dtype(correction) is torch.float32


def test_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    checkpoint = opened(tiny_checkpoint(tmp_path))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="ends inside tensor"):
        whole(checkpoint, "lm_head.weight")
    path.unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        whole(checkpoint, "lm_head.weight")
    with pytest.raises(CheckpointError, match=r"parameter 'model\.absent'"):
        checkpoint.shape("model.absent")

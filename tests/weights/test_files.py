"""Which files count, against transformers' own loading; and each foreign format by its name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from glmc.errors import CheckpointError
from glmc.presets.catalog import load_config
from glmc.weights.checkpoint import Checkpoint, open_checkpoint
from glmc.weights.files import INDEX, SINGLE
from tests.support.checkpoints import tiny_checkpoint

NORM = "model.norm.weight"


def opened(directory: Path) -> Checkpoint:
    return open_checkpoint(directory, load_config(directory).fields)


def refused(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        opened(directory)
    assert caught.value.remedy
    return str(caught.value)


def require_equal(directory: Path) -> Checkpoint:
    """Every parameter is what from_pretrained loads."""
    checkpoint = opened(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
    for name, tensor in model.state_dict().items():
        found = checkpoint.read(name, 0, tensor.numel()).view(tensor.shape)
        assert torch.equal(found, tensor), name
    return checkpoint


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "model", "glm-4-9b-0414", shard_bytes=20_000)


def shards(directory: Path) -> list[Path]:
    return sorted(directory.glob("model-*.safetensors"))


def test_one_file_counts_before_an_index(sharded: Path, tmp_path: Path) -> None:
    tuned = tiny_checkpoint(tmp_path / "tuned", "glm-4-9b-0414", seed=1)
    shutil.copy(tuned / SINGLE, sharded / SINGLE)
    checkpoint = require_equal(sharded)
    (remark,) = checkpoint.remarks
    assert INDEX in remark and shards(sharded)[0].name in remark


def test_unread_files_are_named_when_the_read_one_does_not_fit(sharded: Path) -> None:
    save_file({NORM: torch.ones(32)}, sharded / SINGLE)
    text = refused(sharded)
    assert f"not read, as transformers does not: {shards(sharded)[0].name}" in text
    assert INDEX in text


def test_other_files_beside_an_index_do_not_count(sharded: Path) -> None:
    save_file({NORM: torch.zeros(32)}, sharded / "consolidated.safetensors")
    torch.save({NORM: torch.zeros(32)}, sharded / "pytorch_model.bin")
    assert require_equal(sharded).unread == ("consolidated.safetensors",)


def test_tensors_that_the_index_forgets_or_misplaces(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    places = index["weight_map"]
    del places[NORM]
    first, last = shards(sharded)[0].name, shards(sharded)[-1].name
    name = next(name for name, file in places.items() if file == first)
    places[name] = last
    (sharded / INDEX).write_text(json.dumps(index))
    require_equal(sharded)


def test_a_tensor_in_two_files(sharded: Path) -> None:
    first, last = shards(sharded)[0], shards(sharded)[-1]
    tensors, others = load_file(first), load_file(last)
    name = next(iter(others))
    save_file(tensors | {name: others[name]}, first)
    require_equal(sharded)
    save_file(tensors | {name: others[name] + 1}, first)
    text = refused(sharded)
    assert name in text and f"{first.name} and {last.name}" in text


def test_surplus_tensors_are_named_with_their_file(sharded: Path) -> None:
    last = shards(sharded)[-1]
    save_file(load_file(last) | {"score.weight": torch.ones(2)}, last)
    assert f"surplus: score.weight in {last.name}" in refused(sharded)


def test_numbered_files_without_an_index(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    assert opened(sharded).names
    shards(sharded)[1].unlink()
    assert "complete the download" in refused(sharded)


def test_the_trunk_of_a_tied_model(tmp_path: Path) -> None:
    """transformers adds the prefix that a trunk saved alone does not have."""
    tiny_checkpoint(tmp_path, "glm-4-9b-0414")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": True}))
    tensors = load_file(tmp_path / SINGLE)
    del tensors["lm_head.weight"]
    bare = {name.removeprefix("model."): item for name, item in tensors.items()}
    save_file(bare, tmp_path / SINGLE, metadata={"format": "pt"})
    require_equal(tmp_path)


def rename(directory: Path, name: str) -> None:
    (directory / SINGLE).rename(directory / name)


def pointer(directory: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    (directory / SINGLE).write_text(text)


FOREIGN: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "pickle": (lambda d: rename(d, "pytorch_model.bin"), ("pytorch_model.bin", "python -c")),
    "pickled shards": (
        lambda d: rename(d, "pytorch_model-00001-of-00002.bin"),
        ("pytorch_model-00001-of-00002.bin", "save_pretrained"),
    ),
    "original": (lambda d: rename(d, "consolidated.00.pth"), ("consolidated.00.pth", "pickled")),
    "gguf": (lambda d: rename(d, "model-Q4_K_M.gguf"), ("GGUF", "model-Q4_K_M.gguf")),
    "tensorflow": (lambda d: rename(d, "tf_model.h5"), ("TensorFlow", "tf_model.h5")),
    "consolidated": (
        lambda d: rename(d, "consolidated.safetensors"),
        ("consolidated.safetensors", "layout of the trainer"),
    ),
    "variant": (lambda d: rename(d, "model.fp16.safetensors"), ("fp16", "variant", "rename")),
    "other name": (lambda d: rename(d, "glm.safetensors"), ("glm.safetensors", "rename")),
    "adapter": (
        lambda d: rename(d, "adapter_model.safetensors"),
        ("adapter_model.safetensors", "merge_and_unload"),
    ),
    "adapter beside": (
        lambda d: (d / "adapter_config.json").write_text("{}"),
        ("adapter_config.json", "LoRA"),
    ),
    "pointer": (pointer, ("Git LFS", "git lfs pull", SINGLE)),
    "web page": (
        lambda d: (d / SINGLE).write_text("<!DOCTYPE html><html>404</html>"),
        ("web page", "hf download"),
    ),
    "modelopt": (
        lambda d: (d / "hf_quant_config.json").write_text("{}"),
        ("ModelOpt", "hf_quant_config.json"),
    ),
    "msmodelslim": (
        lambda d: (d / "quant_model_description.json").write_text("{}"),
        ("msModelSlim", "quant_model_description.json"),
    ),
    "training": (lambda d: rename(d, "optimizer.bin"), ("no weights", "--random-weights")),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_format_is_refused_by_name(tmp_path: Path, name: str) -> None:
    damage, words = FOREIGN[name]
    damage(tiny_checkpoint(tmp_path, "glm-4-9b-0414"))
    text = refused(tmp_path)
    for word in words:
        assert word in text


QUANTISED = {
    "GPTQ": {"qweight": torch.int32, "qzeros": torch.int32, "g_idx": torch.int32},
    "AWQ": {"qweight": torch.int32, "qzeros": torch.int32, "scales": torch.float16},
    "weight_scale_inv": {"weight": torch.float8_e4m3fn, "weight_scale_inv": torch.float32},
    "compressed-tensors": {"weight": torch.int8, "weight_scale": torch.bfloat16},
    "packed INT4": {"weight_packed": torch.int32, "weight_shape": torch.int64},
    "bitsandbytes": {"weight": torch.int8, "SCB": torch.float32},
    "MLX": {"weight": torch.uint32, "scales": torch.bfloat16, "biases": torch.bfloat16},
    "float8_e5m2": {"weight": torch.float8_e5m2},
}


@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_tensors_are_named_without_a_word_in_the_config(
    tmp_path: Path, name: str
) -> None:
    tiny_checkpoint(tmp_path, "glm-4-9b-0414")
    module = "model.layers.0.mlp.down_proj"
    tensors = load_file(tmp_path / SINGLE)
    tensors.pop(f"{module}.weight")
    for part, dtype in QUANTISED[name].items():
        tensors[f"{module}.{part}"] = torch.zeros(32, 48).to(dtype)
    save_file(tensors, tmp_path / SINGLE)
    text = refused(tmp_path)
    assert name in text and "unquantised" in text


@pytest.mark.slow
def test_the_conversion_of_a_pickle_works(tmp_path: Path) -> None:
    """The line of the remedy, run as it stands, gives the weights that were pickled."""
    tiny_checkpoint(tmp_path, "glm-4-9b-0414")
    tensors = load_file(tmp_path / SINGLE)
    (tmp_path / SINGLE).unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path)
    line = str(caught.value.remedy).partition("python -c ")[2]
    subprocess.run(f"{sys.executable} -c {line}", shell=True, check=True, capture_output=True)
    checkpoint = opened(tmp_path)
    for name, tensor in tensors.items():
        assert torch.equal(checkpoint.read(name, 0, tensor.numel()), tensor.flatten()), name


REMEDIES: dict[str, tuple[str, torch.Tensor | None, str]] = {
    "no head": ("lm_head.weight", None, "tie_word_embeddings to true"),
    "no bias": ("model.layers.0.self_attn.q_proj.bias", None, "attention_bias to false"),
    "norm of a head": ("model.layers.0.self_attn.q_norm.weight", torch.ones(16), "use_qk_norm"),
    "wrapper": ("module.model.norm.weight", torch.ones(32), "prefix 'module.'"),
    "lora": ("model.layers.0.self_attn.q_proj.lora_A.weight", torch.ones(2), "merge"),
    "vocabulary": ("model.embed_tokens.weight", torch.ones(95, 32), "correct vocab_size"),
}


@pytest.mark.parametrize("name", REMEDIES)
def test_each_problem_has_a_remedy_of_its_own(tmp_path: Path, name: str) -> None:
    tiny_checkpoint(tmp_path, "glm-4-9b-0414")
    tensors = load_file(tmp_path / SINGLE)
    tensor, value, remedy = REMEDIES[name]
    if value is None:
        del tensors[tensor]
    else:
        tensors[tensor] = value
    save_file(tensors, tmp_path / SINGLE)
    text = refused(tmp_path)
    assert tensor in text and remedy in text

"""Weights made of the checkpoint at load have the bytes of packed ones, on each rank."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import glmc_runtime
from glmc.artifact.packing import PackProgress, Tally
from glmc.artifact.recipes import is_stored, made_recipes
from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc.errors import CheckpointError, InternalError, PackError
from glmc.ir.recipe import ByRank, Concatenate, Constant, Recipe, RopeTable, Source, Weight, sources
from glmc.weights.checkpoint import Checkpoint
from glmc.weights.evaluate import evaluate
from glmc.weights.flat import recipe_shape
from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.artifact_files import ArtifactFiles
from glmc_runtime.format.manifest import FileEntry, Guards, Manifest, Ranks, WeightEntry
from glmc_runtime.format.recipes import RECIPES, Recipes, recipes_from_json, recipes_to_json
from glmc_runtime.loading import from_checkpoint
from glmc_runtime.loading.from_checkpoint import made_weights
from glmc_runtime.loading.loader import Artifact, load_artifact
from glmc_runtime.loading.weights import load_weights
from tests.artifact import toy
from tests.artifact.toy import checkpoint_of
from tests.support.checkpoints import tiny_checkpoint
from tests.weights.test_dealt import recipes, values
from tests.weights.test_stream import FREQUENCIES

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("shared_captures")]

CPU = torch.device("cpu")
PROMPTS = [[3, 14, 15], [9]]


def tally(weights: list[Weight], ranks: int) -> Tally:
    return Tally(weights, ranks, lambda progress: None)


def written(root: Path, weights: list[Weight], source: Checkpoint, ranks: int) -> Manifest:
    """An artifact that has nothing but recipes, and its manifest."""
    made = made_recipes(weights, source, ranks, 50, tally(weights, ranks))
    data = json.dumps(recipes_to_json(made)).encode()
    (root / "weights").mkdir(parents=True)
    (root / RECIPES).write_bytes(data)
    entries = {
        each.name: WeightEntry(
            (RECIPES,) * ranks, str(each.dtype).removeprefix("torch."), each.shape
        )
        for each in weights
    }
    files = {RECIPES: FileEntry(hashlib.sha256(data).hexdigest(), len(data))}
    manifest = Manifest(
        **vars(toy.parts(ranks=Ranks(ranks))), weights=entries, weights_included=True, files=files
    )
    assert recipes_from_json(json.loads(data), manifest) == made
    return manifest


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_each_rank_makes_what_is_packed(
    tmp_path: Path, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are read whole and rows that are read in stretches, in blocks of one and of many;
    cast and as they are."""
    tensors = values(torch.bfloat16)
    source = checkpoint_of(tmp_path / "checkpoint", tensors)
    dtypes = (torch.bfloat16, torch.float32, torch.float16)
    weights = [
        Weight(f"w{number}", recipe_shape(each), dtypes[number % 3], each)
        for number, each in enumerate(recipes(ranks))
        if sources(each)
    ]
    manifest = written(tmp_path / "artifact", weights, source, ranks)
    for rank in range(ranks):
        monkeypatch.setattr(from_checkpoint, "_SHORT", (0, 64 << 10)[rank % 2])
        monkeypatch.setattr(from_checkpoint, "_BLOCK", (10, 64 << 10)[rank // 2 % 2])
        files = ArtifactFiles(tmp_path / "artifact", manifest.files)
        files.hash_all(lambda name: True)
        artifact = Artifact(tmp_path / "artifact", manifest, {}, files, rank)
        found = made_weights(artifact, CPU, None)
        for weight in weights:
            expected = evaluate(weight.on(rank), tensors.__getitem__)
            assert found[weight.name].dtype is weight.dtype
            assert torch.equal(found[weight.name], expected), (rank, weight)


def test_what_no_checkpoint_holds_is_packed() -> None:
    table = RopeTable(FREQUENCIES, 5, 1.0)
    computed: tuple[Recipe, ...] = (table, Constant((1.0,)), ByRank((1, 2)))
    for recipe in computed:
        assert not is_stored(Weight("w", recipe_shape(recipe), torch.float32, recipe))


def test_a_mixture_of_stored_and_computed(tmp_path: Path) -> None:
    source = checkpoint_of(tmp_path, {"a": torch.ones(2)})
    mixed = Concatenate((Source("a", (2,)), Constant((1.0,))))
    weights = [Weight("w", (3,), torch.float32, mixed)]
    with pytest.raises(InternalError, match="'w' is made of"):
        made_recipes(weights, source, 1, 99, tally(weights, 1))


def test_a_file_that_is_cut_short_while_it_is_hashed(tmp_path: Path) -> None:
    source = checkpoint_of(tmp_path, {"a": torch.ones(5000)})
    (tmp_path / "model.safetensors").write_bytes(b"")
    weights = [Weight("w", (5000,), torch.float32, Source("a", (5000,)))]
    for chunk in (100, 1 << 20):
        with pytest.raises(CheckpointError, match="ends inside tensor 'a'"):
            made_recipes(weights, source, 2, chunk, tally(weights, 2))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, Path]:
    """The toy with packed weights, with recipes, and the checkpoint."""
    source = toy.ToyWeights()
    checkpoint = checkpoint_of(tmp_path / "checkpoint", source.tensors)
    seen: list[PackProgress] = []
    parts = toy.parts(guards=Guards("0.1.0", "2.5", "cpu"))
    toy.write(tmp_path / "packed", parts=parts)
    toy.write(tmp_path / "made", parts=parts, checkpoint=checkpoint, progress=seen.append)
    assert seen[-1].done == seen[-1].total
    return tmp_path / "packed", tmp_path / "made", tmp_path / "checkpoint"


def tokens(path: Path, **options: Any) -> list[list[int]]:
    session = glmc_runtime.load(path, **options)
    found = session.generate(PROMPTS, max_new_tokens=6, ignore_eos=True)
    return [list(each.tokens) for each in found]


def test_the_same_weights_and_tokens(pair: tuple[Path, Path, Path]) -> None:
    packed, made, _ = pair
    one, other = (load_weights(load_artifact(path), CPU) for path in (packed, made))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert tokens(packed) == tokens(made) == tokens(made, verify_hashes=False)
    files = {path.name for path in (made / "weights").iterdir()}
    assert files == {"recipes.json"}


def test_a_checkpoint_that_has_moved(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    packed, made, checkpoint = pair
    checkpoint.rename(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"can't be read[\s\S]*--checkpoint DIR") as caught:
        tokens(made)
    assert caught.value.place == str(checkpoint / "model.safetensors")
    assert tokens(made, checkpoint=tmp_path / "elsewhere") == tokens(packed)


def change(name: str, edit: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: edit(tensors[name])})


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (change("k", lambda k: k + 1), r"'qkv' is not what was compiled[\s\S]*of q, k, v in model"),
        (change("k", lambda k: k.double()), r"another tensor 'k'[\s\S]*float64"),
        (change("k", lambda k: k[:1].clone()), r"another tensor 'k'[\s\S]*\[1, "),
        (lambda tensors: tensors.pop("k"), "another tensor 'k'"),
    ],
)
def test_another_checkpoint_is_refused(
    pair: tuple[Path, Path, Path], edit: Callable[[dict[str, Tensor]], None], reason: str
) -> None:
    _, made, checkpoint = pair
    tensors = load_file(checkpoint / "model.safetensors")
    edit(tensors)
    (checkpoint / "model.safetensors").unlink()
    save_file(tensors, checkpoint / "model.safetensors")
    with pytest.raises(ArtifactError, match=reason):
        tokens(made)


@pytest.mark.parametrize("kind", ["short", "empty", "text", "long header", "pipe", "offsets"])
def test_a_damaged_checkpoint(pair: tuple[Path, Path, Path], kind: str) -> None:
    _, made, checkpoint = pair
    file = checkpoint / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    begin, end = header["k"]["data_offsets"]
    header["k"]["data_offsets"] = [begin - 4, end]
    text = json.dumps(header).encode()
    changed = {
        "short": data[:-4],
        "empty": b"",
        "text": b"\x09" + b"\0" * 7 + b"not json.",
        "long header": b"\xff" * 7 + b"\x00" + data[8:],
        "offsets": len(text).to_bytes(8, "little") + text + data[8 + length :],
    }
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.write_bytes(changed[kind])
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        tokens(made)


def test_only_files_that_are_named_are_looked_at(pair: tuple[Path, Path, Path]) -> None:
    packed, made, checkpoint = pair
    (checkpoint / "other.safetensors").write_bytes(b"damaged")
    target = checkpoint / "real"
    (checkpoint / "model.safetensors").rename(target)
    (checkpoint / "model.safetensors").symlink_to(target)  # as a cache of downloads has it
    assert tokens(made) == tokens(packed)


def test_a_changed_recipe_is_seen_before_it_is_used(pair: tuple[Path, Path, Path]) -> None:
    _, made, _ = pair
    (made / RECIPES).write_text((made / RECIPES).read_text().replace('"q"', '"k"'))
    with pytest.raises(ArtifactError, match="sha256 differs"):
        tokens(made)


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("preset", ["glm-4-9b-0414", "glm-4.5"])
def test_a_compile_of_either_kind(tmp_path: Path, preset: str, ranks: int) -> None:
    """Of a mixture, whose experts are a tensor each in the files, and are stacked."""
    model = tiny_checkpoint(tmp_path / "model", preset)
    options = CompileOptions(max_context=64, dtype="bfloat16", tensor_parallel=ranks)
    compile_model(model, tmp_path / "packed", options)
    compile_model(model, tmp_path / "made", replace(options, weights="from-checkpoint"))
    for rank in range(ranks):
        one, other = (
            load_weights(load_artifact(tmp_path / name, rank=rank), CPU)
            for name in ("packed", "made")
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    if ranks == 1:
        assert tokens(tmp_path / "packed") == tokens(tmp_path / "made")
    artifact = load_artifact(tmp_path / "made")
    shutil.rmtree(model)
    with pytest.raises(ArtifactError, match="can't be read"):
        load_weights(artifact, CPU)


def test_recipes_that_no_runtime_takes_are_not_written(tmp_path: Path) -> None:
    """Of a file whose name it would not open."""
    model = tiny_checkpoint(tmp_path / "model", "glm-4-9b-0414")
    (file,) = model.glob("*.safetensors")
    places = dict.fromkeys(load_file(file), "_part.safetensors")
    file.rename(model / "_part.safetensors")
    index = json.dumps({"metadata": {}, "weight_map": places})
    (model / "model.safetensors.index.json").write_text(index)
    options = CompileOptions(max_context=64, weights="from-checkpoint")
    with pytest.raises(PackError, match="and no file's name"):
        compile_model(model, tmp_path / "made", options)
    assert not (tmp_path / "made").exists()


def test_hashes_are_those_of_the_packed_bytes(pair: tuple[Path, Path, Path]) -> None:
    packed, made, _ = pair
    found: Recipes = from_checkpoint.recipes_of(load_artifact(made))
    for name, tensor in load_weights(load_artifact(packed), CPU).items():
        digest = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        assert found.weights[name].sha256 == (digest,)

"""Each kind of recipe, on each rank, of tensors that are handed over whole or in parts."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest
import torch

from glmc.artifact.engine_weights import engine_weights
from glmc.ir.recipe import Weight, sources
from glmc.weights.evaluate import evaluate
from glmc.weights.flat import recipe_shape
from glmc_runtime.format.artifact_files import ArtifactFiles
from glmc_runtime.format.engine_weights import (
    FROM_ENGINE,
    Parameter,
    Part,
    Skipped,
    engine_weights_from_json,
    engine_weights_to_json,
)
from glmc_runtime.format.manifest import FileEntry, Manifest, Ranks, WeightEntry
from glmc_runtime.loading.from_engine import weights_of_engine
from glmc_runtime.loading.loader import Artifact
from tests.artifact import toy
from tests.weights.test_dealt import SHAPES, recipes, values

CPU = torch.device("cpu")
DTYPES = (torch.bfloat16, torch.float32, torch.float16)


class InParts(toy.ToyHandedOver):
    """The tensors of recipes, with a name for each row of theirs."""

    def __init__(self) -> None:
        self.parameters = {name: Parameter(shape, False) for name, shape in SHAPES.items()}
        self.skipped, self.names = Skipped((), {}), {}
        for name, (rows, *inner) in SHAPES.items():
            size = torch.Size(inner).numel()
            for row in range(rows):
                self.names[f"{name}.{row}"] = Part(name, row * size, tuple(inner))


def written(root: Path, weights: list[Weight], ranks: int) -> Manifest:
    made = engine_weights(weights, InParts(), ranks)
    data = json.dumps(engine_weights_to_json(made)).encode()
    (root / FROM_ENGINE).parent.mkdir(parents=True)
    (root / FROM_ENGINE).write_bytes(data)
    entries = {
        each.name: WeightEntry(
            (FROM_ENGINE,) * ranks, str(each.dtype).removeprefix("torch."), each.shape
        )
        for each in weights
    }
    files = {FROM_ENGINE: FileEntry(hashlib.sha256(data).hexdigest(), len(data))}
    manifest = Manifest(
        **vars(toy.parts(ranks=Ranks(ranks))), weights=entries, weights_included=True, files=files
    )
    assert engine_weights_from_json(json.loads(data), manifest) == made
    return manifest


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_each_rank_makes_what_is_packed(tmp_path: Path, ranks: int) -> None:
    tensors = values(torch.bfloat16)
    weights = [
        Weight(f"w{number}", recipe_shape(each), DTYPES[number % 3], each)
        for number, each in enumerate(recipes(ranks))
        if sources(each)
    ]
    manifest = written(tmp_path, weights, ranks)
    draw = random.Random(ranks)
    for rank in range(ranks):
        pairs = []
        for name, tensor in tensors.items():
            rows = [(f"{name}.{row}", tensor[row].clone()) for row in range(len(tensor))]
            pairs += rows if draw.random() < 0.5 else [(name, tensor)]
        draw.shuffle(pairs)
        files = ArtifactFiles(tmp_path, manifest.files)
        found = weights_of_engine(Artifact(tmp_path, manifest, {}, files, rank), CPU, pairs)
        for weight in weights:
            expected = evaluate(weight.on(rank), tensors.__getitem__)
            assert found[weight.name].dtype is weight.dtype
            assert torch.equal(found[weight.name], expected), (rank, weight)

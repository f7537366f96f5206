"""Recipes of an artifact are checked whole: names, ranges, shapes and hashes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.manifest import Manifest, Ranks, WeightEntry
from glmc_runtime.format.recipe_nodes import Chosen, tensors_of
from glmc_runtime.format.recipes import RECIPES, recipes_from_json, recipes_to_json
from glmc_runtime.loading.loader import load_artifact

Edit = Callable[[dict[str, Any]], object]
A = {"elements": [["a", 0, 8]], "shape": [2, 4]}
DATA = {
    "schema_version": 1,
    "checkpoint": "/models/glm",
    "tensors": {
        "a": {"file": "model-1.safetensors", "dtype": "float32", "shape": [2, 4]},
        "b": {"file": "model.safetensors", "dtype": "bfloat16", "shape": [3, 4]},
    },
    "weights": {
        "rows": {
            "recipe": {
                "chosen": {
                    "concatenated": [A, {"elements": [["b", 4, 8], ["b", 0, 4]], "shape": [3, 4]}]
                },
                "axis": 0,
                "runs": [[[0, 2], [4, 1]], [[2, 2], [None, 1]]],
            },
            "sha256": ["0" * 64, "a" * 64],
        },
        "stack": {
            "recipe": {"on_first": {"stacked": [A, A]}},
            "sha256": ["0" * 64, "a" * 64],
        },
    },
}


@pytest.fixture
def manifest(toy_path: Path) -> Manifest:
    shapes = {"rows": (3, 4), "stack": (2, 2, 4)}
    weights = {
        name: WeightEntry((RECIPES,) * 2, "float32", shape) for name, shape in shapes.items()
    }
    return replace(load_artifact(toy_path).manifest, weights=weights, ranks=Ranks(2))


def test_what_is_read_is_written_again(manifest: Manifest) -> None:
    recipes = recipes_from_json(DATA, manifest)
    rows = recipes.weights["rows"].recipe
    assert isinstance(rows, Chosen) and rows.shape == (3, 4)
    assert list(tensors_of(rows)) == ["a", "b", "b"]
    assert recipes_from_json(recipes_to_json(recipes), manifest) == recipes


def rows(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = data["weights"]["rows"]["recipe"]
    return found


def element(number: int, value: object) -> Edit:
    def edit(data: dict[str, Any]) -> None:
        rows(data)["chosen"]["concatenated"][0]["elements"][0][number] = value

    return edit


def of_tensor(field: str, value: object) -> Edit:
    return lambda data: data["tensors"]["a"].update({field: value})


def deep(data: dict[str, Any]) -> None:
    inside: dict[str, Any] = rows(data)
    for _ in range(50):
        inside = {"concatenated": [inside]}
    data["weights"]["rows"]["recipe"] = inside


EDITS: dict[str, Edit] = {
    "no object": lambda data: data.update(weights=[]),
    "another schema": lambda data: data.update(schema_version=2),
    "no schema": lambda data: data.pop("schema_version"),
    "a directory of no text": lambda data: data.update(checkpoint=5),
    "a file above": of_tensor("file", "../model.safetensors"),
    "a file below": of_tensor("file", "x/model.safetensors"),
    "an absolute file": of_tensor("file", "/model.safetensors"),
    "a hidden file": of_tensor("file", ".safetensors"),
    "another kind of file": of_tensor("file", "model.bin"),
    "a file of no text": of_tensor("file", ["model.safetensors"]),
    "an end of line": of_tensor("file", "model.safetensors\n"),
    "no dtype": of_tensor("dtype", "float3"),
    "a dtype of no text": of_tensor("dtype", 3),
    "a negative size": of_tensor("shape", [-2, -4]),
    "a size of no number": of_tensor("shape", ["2", 4]),
    "a flag for a size": of_tensor("shape", [True, 8]),
    "too large": of_tensor("shape", [1 << 40, 1 << 40]),
    "too many dimensions": of_tensor("shape", [1] * 7 + [2, 4]),
    "an unlisted tensor": element(0, "c"),
    "a tensor of no name": element(0, ["a"]),
    "before the begin": element(1, -1),
    "after the end": element(1, 1),
    "too many": element(2, 9),
    "negative": element(2, -8),
    "no number": element(2, "8"),
    "a fraction": element(2, 8.0),
    "another shape than elements": lambda data: rows(data)["chosen"]["concatenated"][0].update(
        shape=[2, 5]
    ),
    "parts that do not fit": lambda data: rows(data)["chosen"]["concatenated"].append(
        {"elements": [["a", 0, 8]], "shape": [4, 2]}
    ),
    "parts without dimensions": lambda data: rows(data)["chosen"].update(
        concatenated=[{"elements": [["a", 0, 1]], "shape": []}]
    ),
    "no parts": lambda data: rows(data)["chosen"].update(concatenated=[]),
    "no recipe": lambda data: rows(data).update(chosen={}),
    "a recipe of a number": lambda data: rows(data).update(chosen=3),
    "no such axis": lambda data: rows(data).update(axis=2),
    "an axis from the end": lambda data: rows(data).update(axis=-1),
    "another axis": lambda data: rows(data).update(axis=1),
    "a flag for an axis": lambda data: rows(data).update(axis=False),
    "runs of one rank": lambda data: rows(data)["runs"].pop(),
    "runs of three ranks": lambda data: rows(data)["runs"].append([[0, 3]]),
    "ranks of two lengths": lambda data: rows(data)["runs"][0].pop(),
    "a run after the end": lambda data: rows(data)["runs"].__setitem__(0, [[3, 3]]),
    "a run before the begin": lambda data: rows(data)["runs"].__setitem__(0, [[-1, 3]]),
    "a negative run": lambda data: rows(data)["runs"].__setitem__(0, [[0, 4], [0, -1]]),
    "a run of three": lambda data: rows(data)["runs"].__setitem__(0, [[0, 1, 2]]),
    "a run of no number": lambda data: rows(data)["runs"].__setitem__(0, [["0", 3]]),
    "very deep": deep,
    "a hash too few": lambda data: data["weights"]["rows"]["sha256"].pop(),
    "a hash too many": lambda data: data["weights"]["rows"]["sha256"].append("0" * 64),
    "no hash": lambda data: data["weights"]["rows"].update(sha256=["0" * 63, "g" * 64]),
    "a hash of no text": lambda data: data["weights"]["rows"].update(sha256=[0, 1]),
    "a weight too few": lambda data: data["weights"].pop("stack"),
    "a weight too many": lambda data: data["weights"].update(other=data["weights"]["stack"]),
    "a weight of another shape": lambda data: data["weights"]["stack"].update(
        recipe={"stacked": [A, A, A]}
    ),
}


@pytest.mark.parametrize("kind", EDITS)
def test_what_is_not_well_formed(manifest: Manifest, kind: str) -> None:
    data = copy.deepcopy(DATA)
    EDITS[kind](data)
    with pytest.raises(ArtifactError, match=r"weights/recipes\.json is not well formed"):
        recipes_from_json(data, manifest)


@pytest.mark.parametrize("data", [None, 3, [], "text"])
def test_what_is_no_object(manifest: Manifest, data: object) -> None:
    with pytest.raises(ArtifactError, match="not well formed"):
        recipes_from_json(data, manifest)


def test_a_weight_that_some_ranks_alone_make(manifest: Manifest) -> None:
    entry = replace(manifest.weights["rows"], files=(RECIPES, "weights/other.safetensors"))
    changed = replace(manifest, weights={**manifest.weights, "rows": entry})
    with pytest.raises(ArtifactError, match="not what the manifest says"):
        recipes_from_json(DATA, changed)

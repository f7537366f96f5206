"""``weights/recipes.json``: how weights are made of the tensors of a checkpoint, as data.

Slices, concatenations and casts of named tensors, for each weight and each rank, with the sha256 of
the bytes that come of them. An artifact whose weights are made so has none of its own but those
that no checkpoint holds. The file is checked whole before any tensor is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.dtypes import DTYPES
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.recipe_nodes import (
    Node,
    RecipeProblem,
    RecipeReader,
    bounded,
    node_to_json,
    require_weights_of,
)
from glmc_runtime.format.records import misfit

RECIPES = "weights/recipes.json"
SCHEMA_VERSION = 1
_FILE = re.compile(r"[A-Za-z0-9][\w.+-]*\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the checkpoint: ``file`` is a name in its directory."""

    file: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class StoredWeight:
    """A weight: its recipe, and the sha256 of its bytes on each rank."""

    recipe: Node
    sha256: tuple[str, ...]


@dataclass(frozen=True)
class Recipes:
    """``checkpoint`` is the directory that the model was compiled from."""

    checkpoint: str
    tensors: dict[str, StoredTensor]
    weights: dict[str, StoredWeight]


def recipes_to_json(recipes: Recipes) -> dict[str, Any]:
    """:func:`recipes_from_json` reads it back to an equal value."""
    return {
        "schema_version": SCHEMA_VERSION,
        "checkpoint": recipes.checkpoint,
        "tensors": {name: vars(tensor) for name, tensor in recipes.tensors.items()},
        "weights": {
            name: {"recipe": node_to_json(weight.recipe), "sha256": weight.sha256}
            for name, weight in recipes.weights.items()
        },
    }


def recipes_from_json(data: Any, manifest: Manifest) -> Recipes:
    """Read the recipes of an artifact; raises :class:`ArtifactError` for data of another form,
    elements that a tensor does not have, and a weight that is not the manifest's."""
    try:
        if data["schema_version"] != SCHEMA_VERSION:
            raise RecipeProblem(f"schema_version is {data['schema_version']!r}")
        tensors = {
            name: StoredTensor(item["file"], item["dtype"], tuple(item["shape"]))
            for name, item in data["tensors"].items()
        }
        _check_tensors(tensors)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        reader = RecipeReader(shapes, manifest.ranks.count)
        weights = {
            name: StoredWeight(
                reader.node(item["recipe"], f"weights.{name}"), tuple(item["sha256"])
            )
            for name, item in data["weights"].items()
        }
        recipes = Recipes(data["checkpoint"], tensors, weights)
        problem = misfit(recipes.checkpoint, str, "checkpoint")
        if problem is not None:
            raise RecipeProblem(problem)
        _check_weights(weights, manifest)
    except RecipeProblem as error:
        raise _not_well_formed(str(error)) from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _not_well_formed(repr(error)) from error
    return recipes


def _check_tensors(tensors: dict[str, StoredTensor]) -> None:
    for name, tensor in tensors.items():
        problem = misfit(tensor, StoredTensor, f"tensors.{name}")
        if problem is not None:
            raise RecipeProblem(problem)
        if not _FILE.fullmatch(tensor.file):
            raise RecipeProblem(f"tensors.{name}.file is {tensor.file[:80]!r}, and no file's name")
        if tensor.dtype not in DTYPES:
            raise RecipeProblem(f"tensors.{name}.dtype is {tensor.dtype[:80]!r}")
        bounded(tensor.shape, f"tensors.{name}")


def _check_weights(weights: dict[str, StoredWeight], manifest: Manifest) -> None:
    for name, weight in weights.items():
        problem = misfit(weight.sha256, tuple[str, ...], f"weights.{name}.sha256")
        hashes = [each for each in weight.sha256 if _SHA256.fullmatch(str(each))]
        if (
            problem is not None
            or len(hashes) != manifest.ranks.count
            or len(weight.sha256) != len(hashes)
        ):
            raise RecipeProblem(f"weights.{name} has no sha256 for each rank")
    require_weights_of({name: each.recipe for name, each in weights.items()}, manifest, RECIPES)


def _not_well_formed(problem: str) -> ArtifactError:
    return ArtifactError(
        f"{RECIPES} is not well formed: {problem}",
        remedy="compile the model again",
    )

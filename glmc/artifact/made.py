"""The file that stands for weights which are made when the artifact is loaded, by their recipes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Union

from glmc.artifact.engine_weights import engine_weights
from glmc.artifact.packing import Tally
from glmc.artifact.recipes import made_recipes
from glmc.errors import PackError
from glmc.ir.recipe import Weight
from glmc.weights.checkpoint import Checkpoint
from glmc.weights.engine import HandedOver
from glmc_runtime.errors import ArtifactError
from glmc_runtime.format.engine_weights import (
    FROM_ENGINE,
    engine_weights_from_json,
    engine_weights_to_json,
)
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.recipes import RECIPES, recipes_from_json, recipes_to_json

MadeOf = Union[Checkpoint, HandedOver]
"""What a runtime will make weights of: files of a checkpoint, or what a loader reads of one."""


def file_of(source: MadeOf) -> str:
    """The name of the file in the artifact."""
    return FROM_ENGINE if isinstance(source, HandedOver) else RECIPES


def file_json(
    source: MadeOf, weights: Sequence[Weight], ranks: int, chunk_bytes: int, tally: Tally
) -> dict[str, Any]:
    """The content of the file for ``weights``, all of them stored in the source; reads a checkpoint
    once, for hashes, and tells ``tally``. Raises what :func:`made_recipes` does."""
    if isinstance(source, HandedOver):
        return engine_weights_to_json(engine_weights(weights, source, ranks))
    return recipes_to_json(made_recipes(weights, source, ranks, chunk_bytes, tally))


def check_file(file: str, data: bytes, manifest: Manifest) -> None:
    """What the runtime would refuse to read is not written, such as recipes with a file whose name
    it does not open: raises :class:`PackError`."""
    read = engine_weights_from_json if file == FROM_ENGINE else recipes_from_json
    try:
        read(json.loads(data), manifest)
    except ArtifactError as error:
        raise PackError(
            error.message,
            place=file,
            remedy="name the files as Hugging Face does, or pack the weights: --weights checkpoint",
        ) from error

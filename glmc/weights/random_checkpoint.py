"""Write a checkpoint directory of random weights, as the published ones are laid out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glmc.errors import ConfigError
from glmc.presets.fields import read_fields
from glmc.presets.parameters import parameter_shapes
from glmc.weights.files import INDEX
from glmc.weights.flat import CHUNK_BYTES
from glmc.weights.random import RandomWeights
from glmc.weights.safetensors_writer import (
    SHARD_BYTES,
    TensorSpec,
    plan_shards,
    write_file,
)


def write_random_checkpoint(
    directory: Path,
    config: Mapping[str, Any],
    *,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    stacked_experts: bool = False,
) -> None:
    """Write config.json and safetensors (with an index when more than one) into ``directory``.

    The values are those of :class:`RandomWeights` with the same seed, in the config's dtype.
    Experts are one tensor each unless ``stacked_experts``. Raises :class:`ConfigError`, and OSError
    for a directory that holds such files already.
    """
    fields = read_fields(config, place=str(directory))
    if fields.dtype is None:
        raise ConfigError("the config names no dtype", expected="'dtype' or 'torch_dtype'")
    source = RandomWeights(fields, fields.dtype, seed)
    shapes = parameter_shapes(fields, stacked_experts=stacked_experts)
    specs = [TensorSpec(name, source.dtype(name), shape) for name, shape in shapes.items()]

    def stream(spec: TensorSpec) -> Iterator[Tensor]:
        total, step = prod(spec.shape), CHUNK_BYTES // torch.float32.itemsize
        for begin in range(0, total, step):
            yield source.read(spec.name, begin, min(step, total - begin))

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n")
    shards = plan_shards(specs, shard_bytes)
    if len(shards) == 1:
        write_file(directory / "model.safetensors", shards[0], stream)
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(directory / name, shard, stream)
        places.update({spec.name: name for spec in shard})
    index = {
        "metadata": {"total_size": sum(spec.bytes for spec in specs)},
        "weight_map": places,
    }
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")

"""An artifact of the runtime's toy model, written by the compiler's writer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glmc.artifact.writer import ManifestParts, write_artifact
from glmc.weights.recipe import Concatenate, Source, Weight
from glmc_runtime.manifest import CacheSpec, Guards, Limits, Manifest, ModelFacts
from tests.runtime import toy


class ToyWeights:
    """The toy's tensors as a weight source; ``before`` is called before each read."""

    description = "weights of the toy"

    def __init__(self, before: Callable[[str], None] = lambda name: None) -> None:
        self.tensors: dict[str, Tensor] = toy.toy_weights()
        self.before = before
        width = toy.HEADS * toy.HEAD_DIM
        merged = self.tensors.pop("qkv")
        for index, name in enumerate("qkv"):
            self.tensors[name] = merged[index * width : (index + 1) * width]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype

    def read(self, name: str, begin: int, count: int) -> Tensor:
        self.before(name)
        return self.tensors[name].flatten()[begin : begin + count].clone()

    def weights(self) -> list[Weight]:
        """Packed weights: q, k and v become one."""
        parts = tuple(Source(name, self.shape(name)) for name in "qkv")
        rows = sum(part.shape[0] for part in parts)
        merged = Weight("qkv", (rows, toy.HIDDEN), torch.float32, Concatenate(parts))
        kept = [name for name in self.tensors if name not in "qkv"]
        single = [
            Weight(name, self.shape(name), torch.float32, Source(name, self.shape(name)))
            for name in kept
        ]
        return [merged, *single]


def parts(**changes: Any) -> ManifestParts:
    cache = CacheSpec(
        1,
        toy.HEADS,
        toy.HEAD_DIM,
        "float32",
        toy.BLOCK_SIZE,
        toy.BLOCKS_PER_SEQUENCE,
        "blocks_tokens_heads",
    )
    facts = ModelFacts(
        "toy",
        "Toy",
        1,
        toy.VOCABULARY,
        toy.HIDDEN,
        toy.HEADS,
        toy.HEADS,
        toy.HEAD_DIM,
        1,
        60,
        toy.EOS,
    )
    values: dict[str, Any] = {
        "target": "cpu",
        "dtype": "float32",
        "abi_profile": None,
        "versions": {"glmc": "0.1.0"},
        "model": facts,
        "cache": cache,
        "limits": Limits(toy.MAX_CONTEXT, toy.DECODE_BUCKETS, toy.PREFILL_BUCKETS),
        "guards": Guards("0.1.0", "2.5", "cpu", {"kunlun_ops.rmsnorm": ("x", "weight")}),
    }
    return ManifestParts(**{**values, **changes})


def write(path: Path, source: ToyWeights | None = None, **options: Any) -> Manifest:
    """Write the toy with small shards and chunks; ``options`` go to :func:`write_artifact`."""
    source = source or ToyWeights()
    values: dict[str, Any] = {
        "parts": parts(),
        "phases": {name: toy.toy_plan(name) for name in ("prefill", "decode")},
        "weights": source.weights(),
        "source": source,
        "report": {"passes": [1, 2]},
        "shard_bytes": 5000,
        "chunk_bytes": 500,
    }
    return write_artifact(path, **{**values, **options})

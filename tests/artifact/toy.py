"""An artifact of the runtime's toy model, written by the compiler's writer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from glmc.artifact.times import PassTimes, Times, times_json
from glmc.artifact.writer import ManifestParts, write_artifact
from glmc.ir.recipe import Concatenate, Source, Weight
from glmc.weights.checkpoint import Checkpoint, _Location
from glmc.weights.engine import HandedOver
from glmc.weights.safetensors_header import read_header
from glmc_runtime.format.engine_weights import Parameter, Skipped
from glmc_runtime.format.manifest import Guards, Limits, Manifest, ModelFacts
from glmc_runtime.format.phases import DECODE, PREFILL
from tests.runtime import toy

_PHASE = {
    "calls": 3,
    "vendor_calls_by_layer": {"0": 1},
    "helper_calls_by_layer": {"0": 1, "outside": 1},
    "kernels": {"cpu.linear": 3},
    "segments": 1,
    "captured_segments": 0,
    "buffers": 2,
    "arena": "8*tokens",
    "arena_bytes": {"1": 8, "4": 32},
}
_MISS = {
    "pass_name": "moe_gate",
    "anchor": "mlp.gate#topk",
    "node": "mlp.gate#sigmoid",
    "module": "mlp.gate",
    "layer": 0,
    "condition": "the scores are sorted",
    "source": "modeling_glm4_moe.py:283 forward",
    "held": 2,
}
REPORT: dict[str, Any] = {
    "schema_version": 2,
    "model": {"name": "toy", "architecture": "Toy", "layers": 1, "parameters": 1},
    "options": {"target": "cpu", "dtype": "float32", "abi_profile": None},
    "passes": [
        {
            "name": "moe_gate",
            "numerics": "bitwise",
            "nodes_before": 9,
            "nodes_after": 3,
            "matches": 1,
            "layers": [0],
            "near_misses": [_MISS],
            "detail": {},
        }
    ],
    "expected_matches": {"moe_gate": 1},
    "phases": {"prefill": _PHASE, "decode": _PHASE},
    "eager": {"by_layer": {"0": 9, "outside": 1}, "total": 10},
    "remarks": ["a remark"],
}
TIMES = Times("2026-01-02T03:04:05+00:00", {"capture": 0.25}, {"moe_gate": PassTimes(0.5)})


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


class ToyHandedOver(HandedOver):
    """The toy's tensors as an engine will hand them over."""

    def __init__(self) -> None:
        self.toy = ToyWeights()
        self.parameters = {
            name: Parameter(tuple(tensor.shape), False) for name, tensor in self.toy.tensors.items()
        }
        self.names, self.skipped = {}, Skipped((), {})

    def weights(self) -> list[Weight]:
        return self.toy.weights()


def checkpoint_of(directory: Path, tensors: dict[str, Tensor]) -> Checkpoint:
    """A checkpoint of tensors that are parameters under their own names."""
    directory.mkdir(exist_ok=True)
    save_file(tensors, directory / "model.safetensors")
    found = read_header(directory / "model.safetensors")
    locations = {name: _Location.of(each.shape, (each,)) for name, each in found.items()}
    return Checkpoint(directory, locations, (), (), found)


def parts(**changes: Any) -> ManifestParts:
    cache = toy.key_value_cache(
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
        "limits": Limits(toy.MAX_CONTEXT),
        "phases": toy.entries(),
        "guards": Guards("0.1.0", "2.5", "cpu", {"kunlun_ops.rmsnorm": ("x", "weight")}),
    }
    return ManifestParts(**{**values, **changes})


def write(path: Path, source: ToyWeights | ToyHandedOver | None = None, **options: Any) -> Manifest:
    """Write the toy with small shards and chunks; ``options`` go to :func:`write_artifact`."""
    source = source or ToyWeights()
    values: dict[str, Any] = {
        "parts": parts(),
        "plans": {phase.key: toy.toy_plan(phase.name) for phase in (PREFILL, DECODE)},
        "weights": source.weights(),
        "source": source,
        "report": REPORT,
        "times": lambda: times_json(TIMES),
        "shard_bytes": 5000,
        "chunk_bytes": 500,
    }
    return write_artifact(path, **{**values, **options})

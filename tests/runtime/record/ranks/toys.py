"""A toy of two ranks with a table of its values: of the embedding each rank has a summand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from glmc_runtime.format.dealt import Dealt
from glmc_runtime.format.tensor_key import OUTPUT, TensorKey
from glmc_runtime.format.values import VALUES, Values, values_to_json
from glmc_runtime.loading.loader import load_artifact
from tests.runtime.record.recorded import values_of_plans
from tests.runtime.toy import write_manifest, write_toy

SHARES = TensorKey("model.layers.0.shares", "Toy", 0, OUTPUT, "0")


def write_valued(root: Path, ranks: int) -> Path:
    """An artifact of so many ranks."""
    artifact = load_artifact(write_toy(root, ranks=ranks))
    values = values_of_plans(artifact.plans)
    if ranks > 1:
        phases = {
            name: (replace(first, keys=(SHARES,), dealt=Dealt()), *rest)
            for name, (first, *rest) in values.phases.items()
        }
        values = Values(phases)
    (root / VALUES).write_text(json.dumps(values_to_json(values)))
    write_manifest(root, artifact.manifest)
    return root


def change_weight(root: Path, name: str, change: Callable[[Tensor], Tensor], rank: int = 1) -> None:
    """In place, and behind the manifest's back."""
    (file,) = (root / f"weights/rank-{rank}").glob("*.safetensors")
    weight = load_file(str(file))[name]
    changed = change(weight).contiguous()
    assert (changed.shape, changed.dtype) == (weight.shape, weight.dtype)
    data = bytearray(file.read_bytes())
    size = int.from_bytes(data[:8], "little")
    begin, end = (8 + size + at for at in json.loads(data[8 : 8 + size])[name]["data_offsets"])
    data[begin:end] = changed.reshape(-1).view(torch.uint8).numpy().tobytes()
    file.write_bytes(data)

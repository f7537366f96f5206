"""A model of one layer of experts as wide as GLM-4.5-Air's, for references that a GPU computed.

``python -m tests.check.align.air_layer FOLDER`` writes its checkpoint, 0.8 GB. It has 16 of the 128
experts and a small vocabulary; every product has the published width.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path

from glmc.presets.catalog import load_preset
from glmc.weights.random_checkpoint import write_random_checkpoint

IDS = "11,403,7,7,250,99,1,340,18;5,6"
STEPS = 2


def write_air_layer(folder: Path) -> Path:
    """The checkpoint, of random bfloat16 weights that a seed names."""
    config = {
        **load_preset("glm-4.5-air").config,
        "num_hidden_layers": 1,
        "first_k_dense_replace": 0,
        "n_routed_experts": 16,
        "vocab_size": 512,
        "num_nextn_predict_layers": 0,
        "eos_token_id": [1],
        "pad_token_id": 0,
    }
    write_random_checkpoint(folder, config, seed=11)
    return folder


def digest(folder: Path) -> str:
    """Of the weights, so that a reference is only held against the same model."""
    hashed = sha256()
    with (folder / "model.safetensors").open("rb") as file:
        while block := file.read(1 << 24):
            hashed.update(block)
    return hashed.hexdigest()


if __name__ == "__main__":
    made = write_air_layer(Path(sys.argv[1]))
    print(digest(made))

"""Tiny configs as published files spell them, and random checkpoints of them."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from glmc.presets.catalog import load_preset
from glmc.weights.random_checkpoint import write_random_checkpoint

_DENSE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "eos_token_id": [1, 2],
    "pad_token_id": 1,
}
_MOE: dict[str, Any] = {
    "moe_intermediate_size": 24,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
}


def tiny_file(preset: str, **overrides: Any) -> dict[str, Any]:
    """config.json data of a preset's family, a few thousand parameters large."""
    moe = _MOE if "n_routed_experts" in load_preset(preset).config else {}
    return {**load_preset(preset).config, **_DENSE, **moe, **overrides}


def tiny_checkpoint(directory: Path, preset: str = "glm-4.7", **options: Any) -> Path:
    """A random checkpoint of a preset's family; ``options`` go to
    :func:`write_random_checkpoint`."""
    return drawn_checkpoint(directory, tiny_file(preset), **options)


def drawn_checkpoint(directory: Path, config: dict[str, Any], **options: Any) -> Path:
    """What :func:`write_random_checkpoint` writes, drawn once in a process."""
    key = (json.dumps(config), *sorted(options.items()))
    if key in _FILES:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in _FILES[key].items():
            (directory / name).write_bytes(content)
    else:
        before = set(directory.iterdir()) if directory.is_dir() else set()
        write_random_checkpoint(directory, config, **options)
        files = set(directory.iterdir()) - before
        _FILES[key] = {file.name: file.read_bytes() for file in files}
    return directory


_FILES: dict[Hashable, dict[str, bytes]] = {}

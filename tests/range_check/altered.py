"""Tiny checkpoints that the vendor's kernels take, with tensors changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.checkpoints import drawn_checkpoint, tiny_file

DENSE, MOE = "glm-4-9b-0414", "glm-4.7"
_SIZES = {"head_dim": 32, "intermediate_size": 64}
_EXPERTS = {"moe_intermediate_size": 64}


def checkpoint(directory: Path, preset: str) -> Path:
    """A random checkpoint."""
    sizes = _SIZES | (_EXPERTS if preset == MOE else {})
    drawn_checkpoint(directory, tiny_file(preset, **sizes))
    return directory


def alter(model: Path, name: str, change: Callable[[Tensor], Tensor]) -> Path:
    """The checkpoint, in whose one file the tensor ``name`` is now what ``change`` makes of it."""
    (file,) = model.glob("*.safetensors")
    tensors = load_file(file)
    tensors[name] = change(tensors[name]).to(tensors[name].dtype).contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    return model

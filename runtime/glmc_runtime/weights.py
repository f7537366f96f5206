"""Weights: one tensor each, mapped from safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from glmc_runtime.dtypes import dtype_of
from glmc_runtime.errors import ArtifactError, CapacityError
from glmc_runtime.manifest import Manifest


def load_weights(root: Path, manifest: Manifest, device: torch.device) -> dict[str, torch.Tensor]:
    """Every weight of the manifest on ``device``; on a CPU the tensors share the mapped file.

    Raises :class:`ArtifactError` for an artifact without weights, an unreadable file, or a tensor
    whose dtype or shape is not the manifest's, and :class:`CapacityError` where they do not fit.
    """
    if not manifest.weights_included:
        raise ArtifactError(
            "the artifact was compiled without weights: it can be inspected but not run",
            remedy="compile again from a checkpoint",
        )
    by_file: dict[str, list[str]] = {}
    for name, entry in manifest.weights.items():
        by_file.setdefault(entry.file, []).append(name)
    weights: dict[str, torch.Tensor] = {}
    for file, names in sorted(by_file.items()):
        try:
            with safe_open(str(root / file), framework="pt", device=str(device)) as tensors:
                for name in names:
                    weights[name] = tensors.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ArtifactError(
                f"a weight file can't be read: {error}",
                place=file,
                remedy="copy the artifact again",
            ) from error
        except RuntimeError as error:
            raise CapacityError(
                "the weights do not fit into memory",
                place=str(device),
                found=str(error).splitlines()[0],
                remedy="use a device with more memory, or compile with a smaller dtype",
            ) from error
    _check(weights, manifest)
    return weights


def given_weights(
    weights: Mapping[str, torch.Tensor], manifest: Manifest, device: torch.device
) -> dict[str, torch.Tensor]:
    """The caller's own tensors in place of an artifact's; shared with him, not copied.

    Raises :class:`ArtifactError` for one that is missing, elsewhere, not contiguous, or has
    another dtype or shape than the manifest says.
    """
    missing = sorted(set(manifest.weights) - set(weights))
    if missing:
        raise ArtifactError(
            "weights are missing among those given",
            expected=f"{len(manifest.weights)} weights",
            found=f"no {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}",
        )
    chosen = {name: weights[name].detach() for name in manifest.weights}
    for name, tensor in chosen.items():
        if tensor.device != device or not tensor.is_contiguous():
            raise ArtifactError(
                f"weight '{name}' can't be used where it lies",
                expected=f"contiguous, on {device}",
                found=f"strides {list(tensor.stride())}, on {tensor.device}",
            )
    _check(chosen, manifest)
    return chosen


def _check(weights: Mapping[str, torch.Tensor], manifest: Manifest) -> None:
    for name, entry in manifest.weights.items():
        tensor = weights[name]
        if tensor.dtype != dtype_of(entry.dtype) or tuple(tensor.shape) != entry.shape:
            raise ArtifactError(
                f"weight '{name}' is not what the manifest says",
                place=entry.file,
                expected=f"{entry.dtype} {list(entry.shape)}",
                found=f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}",
                remedy="compile the model again",
            )

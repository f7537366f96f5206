"""Weights: one tensor each, copied or mapped from safetensors."""

from __future__ import annotations

import ctypes
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import perf_counter

import torch
from safetensors import SafetensorError, safe_open

from glmc_runtime.command.units import bytes_text, seconds_text
from glmc_runtime.errors import ArtifactError, CapacityError
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.engine_weights import FROM_ENGINE, comes_from_an_engine
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.recipes import RECIPES
from glmc_runtime.loading.from_checkpoint import made_weights
from glmc_runtime.loading.from_engine import weights_of_engine
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.replay.weight_watch import WeightWatch

_LOG = logging.getLogger("glmc_runtime.weights")
# On a CPU, weights of at most so many bytes in all are copied to memory of the process. Larger ones
# stay mapped: the copy would be counted against the process, and no other could share it.
COPIED_BYTES = 1 << 30
_PIECE = 1 << 22

Handed = Iterable[tuple[str, torch.Tensor]]
"""Tensors of a checkpoint by their names, one after the other."""


def require_weights(manifest: Manifest, *, handed: bool = False) -> None:
    """Raise :class:`ArtifactError` for an artifact without weights, and for one whose weights an
    engine hands over unless it does so (``handed``)."""
    if not manifest.weights_included:
        raise ArtifactError(
            "the artifact was compiled without weights: it can be inspected but not run",
            remedy="compile again from a checkpoint",
        )
    if comes_from_an_engine(manifest) and not handed:
        raise ArtifactError(
            "the weights of the artifact are tensors that the loader of an engine hands over",
            expected="an engine that loads the checkpoint: load_model(path, tensors=...)",
            found="none",
            remedy="serve it in vLLM or SGLang, or compile with --weights checkpoint",
        )
    if handed and not comes_from_an_engine(manifest):
        raise ArtifactError(
            "the artifact has weights of its own, and tensors are handed over to it",
            expected="an artifact of glmc compile --weights from-engine",
            remedy="leave the tensors out, or compile with --weights from-engine",
        )


def load_weights(
    artifact: Artifact,
    device: torch.device,
    *,
    watch: WeightWatch | None = None,
    checkpoint: str | None = None,
    handed: Handed | None = None,
) -> dict[str, torch.Tensor]:
    """Every weight of the artifact's rank on ``device``.

    On a CPU the tensors are copies, or, where there is a ``watch`` and they have more than
    ``COPIED_BYTES``, share the mapped files, which the watch is given. Those that are made of the
    ``checkpoint`` (:func:`made_weights`) or of tensors that are ``handed`` over
    (:func:`weights_of_engine`) are memory of this process. Raises :class:`ArtifactError` for an
    artifact without weights, an unreadable file, one that changed since it was hashed, or a tensor
    whose dtype or shape is not the manifest's, :class:`WeightsError` for tensors that do not fit,
    and :class:`CapacityError` where they do not fit into memory.
    """
    root, manifest, files = artifact.path, artifact.manifest, artifact.files
    require_weights(manifest, handed=handed is not None)
    started = perf_counter()
    by_file: dict[str, list[str]] = {}
    for name, entry in manifest.weights.items():
        by_file.setdefault(entry.files[artifact.rank], []).append(name)
    made = by_file.pop(RECIPES, []) + by_file.pop(FROM_ENGINE, [])
    size = sum(manifest.files[file].size for file in by_file)
    mapped = watch if size > COPIED_BYTES else None
    weights: dict[str, torch.Tensor] = {}
    for file, names in sorted(by_file.items()):
        with files.hashed_file(file) as (descriptor, state):
            try:
                with safe_open(
                    _path_of(descriptor, root / file), framework="pt", device=str(device)
                ) as tensors:
                    file_weights = {name: tensors.get_tensor(name) for name in names}
                if device.type == "cpu" and mapped is None:
                    file_weights = _copied(file, descriptor, file_weights)
            except (SafetensorError, OSError) as error:
                raise ArtifactError(
                    f"a weight file can't be read: {error}",
                    place=file,
                    remedy="copy the artifact again",
                ) from error
            except (RuntimeError, MemoryError) as error:
                raise _no_room(device, error) from error
            if device.type == "cpu" and mapped is not None:
                mapped.add(file, descriptor, state, files.compared_hash(file))
        weights.update(file_weights)
    if made:
        try:
            weights.update(
                made_weights(artifact, device, checkpoint)
                if handed is None
                else weights_of_engine(artifact, device, handed)
            )
        except (RuntimeError, MemoryError) as error:
            raise _no_room(device, error) from error
        size += sum(weights[name].nbytes for name in made)
    _check(weights, manifest, artifact.rank)
    taken = seconds_text(perf_counter() - started)
    _LOG.info("%d tensors, %s, on %s in %s", len(weights), bytes_text(size), device, taken)
    return weights


def _no_room(device: torch.device, error: Exception) -> CapacityError:
    return CapacityError(
        "the weights do not fit into memory",
        place=str(device),
        found=(str(error).splitlines() or ["MemoryError"])[0],
        remedy="use a device with more memory, or compile with a smaller dtype",
    )


def _path_of(descriptor: int, path: Path) -> str:
    """A name by which the file of ``descriptor`` is opened again, whatever ``path`` has become.

    Where the system has none, ``path`` itself: the states of the file are compared all the same.
    """
    own = f"/proc/self/fd/{descriptor}"
    return own if os.path.exists(own) else str(path)


def _copied(
    file: str, descriptor: int, mapped: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Copies of mapped tensors, read from the file: the pages of a mapped one that is cut short
    meanwhile can't be touched without the end of the process. The library has checked the header.
    """
    copies = {}
    with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        for name, tensor in mapped.items():
            copy = copies[name] = torch.empty_like(tensor)
            stream.seek(8 + length + header[name]["data_offsets"][0])
            if not copy.nbytes:
                continue
            memory = (ctypes.c_char * copy.nbytes).from_address(copy.data_ptr())
            left = memoryview(memory).cast("B")
            while left:
                count = stream.readinto(left)
                if not count:
                    raise OSError(f"{file} was cut short while it was read")
                left = left[count:]
    return copies


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
    tensors = {name: weights[name].detach() for name in manifest.weights}
    for name, tensor in tensors.items():
        if tensor.device != device or not tensor.is_contiguous():
            raise ArtifactError(
                f"weight '{name}' can't be used in place",
                expected=f"contiguous, on {device}",
                found=f"strides {list(tensor.stride())}, on {tensor.device}",
            )
    _check(tensors, manifest)
    return tensors


def _check(weights: Mapping[str, torch.Tensor], manifest: Manifest, rank: int = 0) -> None:
    for name, entry in manifest.weights.items():
        tensor = weights[name]
        if tensor.dtype != dtype_of(entry.dtype) or tuple(tensor.shape) != entry.shape:
            raise ArtifactError(
                f"weight '{name}' is not what the manifest says",
                place=entry.files[rank],
                expected=f"{entry.dtype} {list(entry.shape)}",
                found=f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}",
                remedy="compile the model again",
            )

"""Tensors that an engine's loader reads of a checkpoint, made into the weights of an artifact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

import glmc_runtime
from glmc_engines.core.header import Header
from glmc_runtime import Model
from glmc_runtime.format.engine_weights import (
    FROM_ENGINE,
    comes_from_an_engine,
    engine_weights_from_json,
)
from glmc_runtime.format.json_file import json_of
from glmc_runtime.loading.loader import listed_files

Pairs = Iterable[tuple[str, torch.Tensor]]
_SPREAD = 0.02


class Handed:
    """The loader's pairs, gone through once; ``names`` are those that were handed over so far."""

    def __init__(self, pairs: Pairs) -> None:
        self.names: set[str] = set()
        self._pairs = pairs

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self._pairs:
            self.names.add(name)
            yield name, tensor


def wants_tensors(header: Header) -> bool:
    """Whether an artifact has no weights of its own: the loader's are made into them."""
    return comes_from_an_engine(header.manifest)


def load_model(
    header: Header, pairs: Pairs | None, device: str = "cpu", **options: Any
) -> tuple[Model, set[str]]:
    """The model of an artifact, and the names of the checkpoint's tensors that it was made of.

    An artifact with weights of its own is loaded as it is, and ``pairs`` are not touched, so that
    nothing is read of the checkpoint. ``pairs`` None is for an engine that loads no checkpoint, as
    for a measurement: random numbers stand for one, the same on each rank. ``options`` and errors
    are those of :func:`glmc_runtime.load_model`.
    """
    if not wants_tensors(header):
        return glmc_runtime.load_model(header.path, **options), set()
    handed = Handed(random_tensors(header, device) if pairs is None else pairs)
    return glmc_runtime.load_model(header.path, tensors=handed, **options), handed.names


def random_tensors(header: Header, device: str = "cpu") -> Iterator[tuple[str, torch.Tensor]]:
    """Random tensors on ``device`` for the parameters of an artifact: weights of norms near one,
    everything else near zero."""
    manifest, files = listed_files(header.path)
    place = str(header.path / FROM_ENGINE)
    data = json_of(files.read(FROM_ENGINE), FROM_ENGINE, place)
    dtype: torch.dtype = getattr(torch, manifest.dtype)
    for number, (name, each) in enumerate(
        engine_weights_from_json(data, manifest).parameters.items()
    ):
        generator = torch.Generator(device).manual_seed(number)
        values = torch.empty(each.shape, device=device).normal_(0.0, _SPREAD, generator=generator)
        yield name, values.add_(1.0 if name.endswith("norm.weight") else 0.0).to(dtype)

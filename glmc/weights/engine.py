"""Weights that the loader of an engine hands over once the artifact is loaded: here, only names.

A checkpoint's :class:`~glmc.weights.checkpoint.Checkpoint` says where a parameter is; this says
under which names a loader may hand it over. No file is read, so it may be made of config.json
alone.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from glmc.capture.routers import ROUTER
from glmc.errors import InternalError
from glmc.presets.fields import ModelFields
from glmc.presets.parameters import parameter_shapes
from glmc.weights.layout import expert_parts
from glmc_runtime.format.engine_weights import Parameter, Part, Skipped

PREFIX = "model."
_HEAD, _EMBEDDING, _LAYERS = "lm_head.weight", "model.embed_tokens.weight", "model.layers."


class HandedOver:
    """A :class:`~glmc.weights.source.WeightSource` without values; ``parameters`` are those of the
    model, ``names`` what else a checkpoint may call a part of one, ``skipped`` what it may hold
    besides: what :mod:`glmc.weights.checkpoint` reads in files, and leaves out there."""

    description = "tensors that an engine hands over"

    def __init__(self, fields: ModelFields) -> None:
        shapes = parameter_shapes(fields)
        self.parameters = {
            name: Parameter(shape, name.endswith(ROUTER)) for name, shape in shapes.items()
        }
        self.names: dict[str, Part] = {}
        for name, shape in shapes.items():
            first = 0
            for part, size in expert_parts(name, shape):
                if part != name:
                    self.names[part] = Part(name, first, size)
                first += prod(size)
        head = _EMBEDDING if fields.tie_word_embeddings else _HEAD
        for name in (_HEAD, PREFIX + _HEAD):
            if name != head:
                self.names[name] = Part(head, 0, shapes[head])
        # Layers beyond the last predict further tokens, whatever a field says.
        self.skipped = Skipped(("rotary_emb.inv_freq",), {_LAYERS: fields.num_hidden_layers})

    def part(self, name: str) -> Part:
        """What a parameter of the traced module is."""
        if name in self.parameters:
            return Part(name, 0, self.parameters[name].shape)
        if name not in self.names:
            raise InternalError(f"the traced model has a parameter '{name}' that no config has")
        return self.names[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.part(name).shape

    def dtype(self, name: str) -> torch.dtype:
        raise self._unread(name)

    def read(self, name: str, begin: int, count: int) -> Tensor:
        raise self._unread(name)

    def _unread(self, name: str) -> InternalError:
        return InternalError(f"'{name}' was asked for, which an engine has yet to hand over")

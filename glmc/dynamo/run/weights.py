"""The weights of a traced program: the caller's own tensors, and what is derived from them.

Parameters and buffers are read in place. What a pass puts together (q, k and v in one
projection) is a copy; it is made again when one of its sources was written in place or is
elsewhere.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from operator import attrgetter
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from glmc.dynamo.compile.normal_form import Placeholder
from glmc.dynamo.run.device_graph import inside_capture
from glmc.ir.recipe import Weight, sources
from glmc.weights.evaluate import evaluate
from glmc_runtime.errors import PlanError

Marks = tuple[list[int], list[int]]
_ADDRESS, _VERSION = Tensor.data_ptr, attrgetter("_version")


class LiveWeights:
    """``tensors`` by name, for the binder. ``constants`` belong to the graph itself."""

    def __init__(
        self,
        wanted: Mapping[str, Weight],
        placeholders: Sequence[Placeholder],
        constants: Mapping[str, Tensor],
        device: torch.device | None = None,
    ) -> None:
        self._device = device or torch.device("cpu")  # where numbers of a recipe itself are put
        self.tensors: dict[str, Tensor] = {
            name: value.detach() for name, value in constants.items()
        }
        self._wanted = wanted
        self._own = [
            (index, item.name) for index, item in enumerate(placeholders) if item.kind == "weight"
        ]
        names = {name for _, name in self._own} | set(constants)
        self._derived = [weight for name, weight in wanted.items() if name not in names]
        read = {source.name for weight in self._derived for source in sources(weight.recipe)}
        self._held = [name for name in constants if name in read]
        self._names = [*(name for _, name in self._own), *self._held]
        # Addresses of the weights of the last call: their memory is nobody else's while this is.
        self._lying: list[Tensor] = []
        self._seen: Marks | None = None
        self._all_count = True

    def refresh(self, arguments: Sequence[Any]) -> bool:
        """Look at the weights of a call; whether any has moved or changed since the last one."""
        tensors = [arguments[index] for index, _ in self._own]
        now = self._marks([*tensors, *map(self.tensors.__getitem__, self._held)])
        if now == self._seen:
            return False
        self._seen = None  # until all are made
        self._lying = [tensor.detach() for tensor in tensors]
        for name, tensor in zip(self._names, self._lying, strict=False):
            self.tensors[name] = tensor if tensor.is_contiguous() else tensor.contiguous()
        marks = dict(zip(self._names, zip(*now, strict=True), strict=True))
        for weight in self._derived:
            self.tensors[weight.name] = self._make(weight, marks)
        self._seen = now
        return True

    def _marks(self, tensors: Sequence[Tensor]) -> Marks:
        """Addresses of the weights and how often each was written; the latter is not counted for
        tensors made in inference mode. Looked at in each call, so without Python's own loops."""
        addresses = list(map(_ADDRESS, tensors))
        if self._all_count:
            try:
                return addresses, list(map(_VERSION, tensors))
            except RuntimeError:
                self._all_count = False
        return addresses, [0 if each.is_inference() else each._version for each in tensors]

    def _make(self, weight: Weight, marks: Mapping[str, tuple[int, int]]) -> Tensor:
        """A derived weight; programs of the same model share it."""
        key = (weight, tuple(marks[source.name] for source in sources(weight.recipe)))
        made = _MADE.get(key)
        if made is None:
            if inside_capture():  # it would be computed only when the graph is replayed
                raise PlanError(
                    "weights can't be put together while a device graph is captured",
                    remedy="call once before the capture",
                )
            with torch.inference_mode(False), torch.no_grad(), self._device:
                made = evaluate(weight, self.tensors.__getitem__)
            _MADE[key] = made
        return made

    @property
    def derived_bytes(self) -> int:
        """Memory of what was made beside the caller's own weights."""
        return sum(
            self.tensors[weight.name].nbytes
            for weight in self._derived
            if weight.name in self.tensors
        )


_MADE: WeakValueDictionary[Hashable, Tensor] = WeakValueDictionary()

"""Which tensors of a run are recorded: of which layers, of which modules."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from glmc_runtime.errors import RequestError
from glmc_runtime.format.tensor_key import TensorKey

_LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)(?:\..*)?")
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")


@dataclass(frozen=True)
class Selection:
    """``layers`` None: all, and what is in no layer; else only what is in one of these.
    ``modules`` is a glob of module paths, such as ``*.self_attn``; None: all."""

    layers: frozenset[int] | None = None
    modules: str | None = None

    def takes(self, key: TensorKey) -> bool:
        """Whether a tensor is recorded under this key."""
        if self.layers is not None and layer_of(key.module) not in self.layers:
            return False
        return self.modules is None or fnmatchcase(key.module, self.modules)

    def keys(self, keys: tuple[TensorKey, ...]) -> tuple[TensorKey, ...]:
        """Those that a tensor of several is recorded under."""
        return tuple(key for key in keys if self.takes(key))


def layer_of(module: str) -> int | None:
    """The number of the layer that a module is in: 3 of ``model.layers.3.mlp.gate``."""
    found = _LAYER.fullmatch(module)
    return None if found is None else int(found[1])


def layers_from(text: str) -> frozenset[int]:
    """Numbers of layers, such as ``0,3-5``; raises :class:`RequestError`."""
    layers: set[int] = set()
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        first, last = (0, -1) if found is None else (int(found[1]), int(found[2] or found[1]))
        if first > last:
            raise RequestError(
                "--layers is no list of layers",
                expected="numbers and ranges such as 0,3-5",
                found=repr(text),
            )
        layers.update(range(first, last + 1))
    return frozenset(layers)

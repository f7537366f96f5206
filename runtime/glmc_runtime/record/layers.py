"""The layers that are recorded: as a command names them, and as keys have them."""

from __future__ import annotations

import re

from glmc_runtime.errors import RequestError

_LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)(?:\..*)?")
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")


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
                remedy="--layers 0,3-5",
            )
        layers.update(range(first, last + 1))
    return frozenset(layers)

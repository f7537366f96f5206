"""Fake kernels, run once per op and kind of operands: the layers of a model repeat each other."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from glmc.ir.signature import value_key


class FakeKernels:
    """Values of calls under one FakeTensorMode. Equal calls share one fake value."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode = mode
        self._values: dict[Hashable, Any] = {}

    def call(
        self,
        target: Callable[..., Any],
        arguments: Sequence[Any],
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        """The fake value of a call; nodes among the positional arguments stand for their values."""
        constants = dict(keywords or {})
        values: Any = torch.fx.node.map_arg(tuple(arguments), lambda node: node.meta["val"])
        key = (target, value_key(values), repr(constants))
        if key not in self._values:
            with self.mode:
                self._values[key] = target(*values, **constants)
        return self._values[key]

    def weight(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A fake weight."""
        key = ("weight", shape, dtype)
        if key not in self._values:
            with self.mode:
                self._values[key] = torch.empty(shape, dtype=dtype)
        value: torch.Tensor = self._values[key]
        return value

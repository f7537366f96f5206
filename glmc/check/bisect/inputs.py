"""The inputs of a reproduction: drawn from a seed where that shows the fault, else recorded."""

from __future__ import annotations

import base64
import math
import textwrap
import zlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, Union

import torch
from torch import Tensor
from torch.fx import Node

from glmc.check.bisect.evidence import Counterexample
from glmc.observe.dump.values import constant

SEED = 0
READERS = f"""
GENERATOR = torch.Generator().manual_seed({SEED})


def drawn(shape, dtype, mean, deviation):
    values = torch.randn(shape, generator=GENERATOR)
    return values.mul_(deviation).add_(mean).to(dtype)


def recorded(shape, dtype, text):
    data = bytearray(zlib.decompress(base64.b85decode(text)))
    return torch.frombuffer(data, dtype=dtype).view(shape).clone()
"""
"""What the texts of inputs call. Needs ``base64``, ``math``, ``torch`` and ``zlib``."""


@dataclass(frozen=True)
class Drawn:
    """Normal numbers of this mean and deviation, drawn in float32 and cast."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    mean: float
    deviation: float

    def value(self, generator: torch.Generator) -> Tensor:
        drawn = torch.randn(self.shape, generator=generator)
        return drawn.mul_(self.deviation).add_(self.mean).to(self.dtype)

    def text(self) -> str:
        sizes = "".join(f"{size}, " for size in self.shape)
        return f"drawn(({sizes}), {self.dtype}, mean={self.mean!r}, deviation={self.deviation!r})"


@dataclass(frozen=True)
class Recorded:
    """The very bytes of a tensor, or a number."""

    exact: Any

    def value(self, generator: torch.Generator) -> Any:
        return self.exact

    def text(self) -> str:
        if not isinstance(self.exact, Tensor):
            return constant(self.exact)
        if self.exact.numel() <= 16:
            return f"torch.tensor({self.exact.tolist()!r}, dtype={self.exact.dtype})".replace(
                "nan", "math.nan"
            ).replace("inf", "math.inf")
        raw = self.exact.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        packed = base64.b85encode(zlib.compress(raw, 9)).decode("ascii")
        lines = "\n".join(f'        r"""{line}"""' for line in textwrap.wrap(packed, 88))
        return f"recorded(\n        {tuple(self.exact.shape)}, {self.exact.dtype},\n{lines}\n    )"


Input = Union[Drawn, Recorded]
Key = TypeVar("Key", bound=Hashable)


def choose(evidence: Counterexample) -> dict[Node, Input]:
    """Inputs that still show the fault: all floats drawn, or else those that can be.

    Weights and activations are drawn with the mean and deviation that they had.
    """
    if evidence.before is None:  # what must come out was recorded for these inputs
        return {node: Recorded(item) for node, item in evidence.values.items()}
    return drawn_where_shown(evidence.values, lambda inputs: shows(evidence, inputs))


def drawn_where_shown(
    values: Mapping[Key, Any], shown: Callable[[Mapping[Key, Input]], bool]
) -> dict[Key, Input]:
    """As many of the values as can be drawn with the fault still ``shown``."""
    exact: dict[Key, Input] = {key: Recorded(item) for key, item in values.items()}
    drawn = {key: drawn_like(item) for key, item in values.items()}
    all_drawn = {key: drawn[key] or exact[key] for key in exact}
    if shown(all_drawn):
        return all_drawn
    # The largest first: one input that must be exact should not keep all others in the file.
    inputs = dict(exact)
    for key in sorted(exact, key=lambda each: -_elements(values[each])):
        instead = drawn[key]
        if instead is not None and shown({**inputs, key: instead}):
            inputs[key] = instead
    return inputs


def shows(evidence: Counterexample, inputs: Mapping[Node, Input]) -> bool:
    """Whether the fault is seen on these inputs, and is still a finite one if it was."""
    values = values_of(inputs)
    was, now = evidence.deviation(), evidence.deviation(values)
    return not now.allowed and math.isinf(was.error) == math.isinf(now.error)


def values_of(inputs: Mapping[Node, Input]) -> dict[Node, Any]:
    """The tensors, drawn in the order of ``inputs`` from one seed."""
    generator = torch.Generator().manual_seed(SEED)
    return {node: item.value(generator) for node, item in inputs.items()}


def drawn_like(value: Any) -> Drawn | None:
    """With the mean and deviation of a value; None for what is no finite tensor of floats."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() == 0:
        return None
    exact = value.float()
    if not bool(exact.isfinite().all()):
        return None
    mean = float(exact.mean()) if value.numel() else 0.0
    deviation = float(exact.std(correction=0)) if value.numel() else 0.0
    return Drawn(tuple(value.shape), value.dtype, _short(mean), _short(deviation))


def _short(number: float) -> float:
    return float(f"{number:.2g}")


def _elements(value: Any) -> int:
    return value.numel() if isinstance(value, Tensor) else 1

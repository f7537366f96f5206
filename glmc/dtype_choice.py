"""How ``--dtype auto`` was decided: plain data for the report, and its lines for people.

Magnitudes are texts of three digits: what is not finite has no number in JSON, and the last digits
of a sum follow the machine, which the same artifact must not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

FLOAT16_MAX = 65504.0
"""The largest finite float16."""


@dataclass(frozen=True)
class Magnitude:
    """The ``largest`` magnitude of a weight or of what an op computes: ``nan`` where there was one.

    ``node`` is where an op had it, ``layer`` None outside of the layers.
    """

    name: str
    largest: str
    node: str = ""
    layer: int | None = None

    def __str__(self) -> str:
        if not self.node:
            return f"{self.largest} in {self.name}"
        place = "outside the layers" if self.layer is None else f"layer {self.layer}"
        return f"{self.largest} in {self.name} at {self.node}, {place}"


@dataclass(frozen=True)
class DtypeChoice:
    """``weights`` counts the parameters that were read, 0 where none had to be; ``ops`` holds the
    largest magnitude of each op over the calibration ``prompt``, and is empty where the weights
    had decided already. ``headroom`` is what activations are multiplied with before they are held
    against the range. ``predicted`` are costs by the numbers of a device, never measured."""

    dtype: str
    reason: str
    weights: int = 0
    largest_weight: Magnitude | None = None
    ops: tuple[Magnitude, ...] = ()
    prompt: str = ""
    headroom: float = 1.0
    predicted: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the report says of it."""
        return tuple(self._remarks())

    def _remarks(self) -> Iterator[str]:
        yield f"--dtype auto: {self.dtype}, because {self.reason}"
        if self.largest_weight is not None:
            yield f"largest of {self.weights:,} weights: {self.largest_weight}"
        if self.ops:
            limit = FLOAT16_MAX / self.headroom
            yield (
                f"largest activation: {self.ops[0]}; up to {limit:g} is taken for safe "
                f"({FLOAT16_MAX:g} by a headroom of {self.headroom:g}), on {self.prompt}"
            )
        yield from self.predicted


def as_stored(dtype: str, target: str) -> DtypeChoice:
    """The checkpoint's dtype, on a target where there is nothing to weigh."""
    return DtypeChoice(dtype, f"it is the checkpoint's, and on {target} float16 has no lead")

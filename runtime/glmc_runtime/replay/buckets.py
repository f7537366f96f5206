"""Buckets: the step sizes that a plan is bound for. A step runs in the smallest that holds it."""

from __future__ import annotations

from bisect import bisect_left

from glmc_runtime.errors import ArtifactError, CapacityError
from glmc_runtime.format.phases import PhaseKey


class Buckets:
    """Ascending step sizes of one phase."""

    def __init__(self, phase: PhaseKey, sizes: tuple[int, ...]) -> None:
        if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
            raise ArtifactError(
                f"the buckets of {phase} are not usable",
                expected="ascending sizes of at least 1",
                found=str(list(sizes)),
                remedy="compile the model again",
            )
        self.phase = phase
        self.sizes = sizes

    @property
    def largest(self) -> int:
        return self.sizes[-1]

    def choose(self, count: int) -> int:
        """The smallest bucket that holds ``count`` rows; raises :class:`CapacityError`."""
        position = bisect_left(self.sizes, count)
        if position == len(self.sizes):
            raise CapacityError(
                f"a {self.phase} step of {count} rows is beyond the largest bucket",
                expected=f"at most {self.largest}",
                found=str(count),
                remedy="pass fewer sequences at once, or compile with a larger bucket",
            )
        return self.sizes[position]

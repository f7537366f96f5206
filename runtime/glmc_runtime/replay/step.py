"""One step: what it computes, and the values of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from glmc_runtime.errors import PlanError
from glmc_runtime.format.step_inputs import STEP_INPUTS, Column

NO_SIZES: Mapping[str, tuple[int, int]] = MappingProxyType({})


class ScheduledTokens(NamedTuple):
    """The share of one sequence in a step: new ``tokens`` (an array has 64-bit integers), the
    first at position ``start``, and the logits after the last ``logits`` of them."""

    tokens: Sequence[int]
    start: int
    blocks: list[int]
    logits: int = 1


class Step:
    """What a step computes: chunks of sequences, padded to ``tokens`` rows.

    ``sequences`` is the padded number of sequences: the bucket in decode, the real one in prefill.
    ``sizes`` are the values of other symbols that the phase has, by name: that of the bucket and
    the real one.
    """

    def __init__(
        self,
        chunks: list[ScheduledTokens],
        tokens: int,
        sequences: int,
        block_size: int,
        sizes: Mapping[str, tuple[int, int]] = NO_SIZES,
    ) -> None:
        self.chunks = chunks
        self.tokens = tokens
        self.sequences = sequences
        self.block_size = block_size
        real = sum([len(chunk.tokens) for chunk in chunks])
        self.padding = tokens - real
        self.absent = sequences - len(chunks)
        self.sizes: Mapping[str, int] = {"tokens": tokens, "sequences": sequences}
        self.real: Mapping[str, int] = {"tokens": real, "sequences": len(chunks)}
        if sizes:
            self.sizes = {**self.sizes, **{name: pair[0] for name, pair in sizes.items()}}
            self.real = {**self.real, **{name: pair[1] for name, pair in sizes.items()}}
        self._columns: dict[str, Column] = {}

    def column(self, name: str) -> Column:
        """The values of a step input of one dimension; computed once, though host and device both
        want some. What has a value for each token is an array of 64-bit integers, what has one for
        each sequence a list."""
        column = self._columns.get(name)
        if column is None:
            fill = STEP_INPUTS[name].column
            if fill is None:
                raise PlanError(f"the step input '{name}' has more than one dimension")
            column = self._columns[name] = fill(self)
        return column


def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that hold ``tokens`` tokens."""
    return -(-tokens // block_size)

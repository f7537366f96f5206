"""Step inputs as one table: what the runtime fills in before each step of a phase.

A row says what an input is called, its dtype, its shape in symbols, and how its values follow from
the sequences of a step. Plans are checked against it, the memory of a step is laid out and filled
by it, and the compiler's programs and the examples of their values are made from it.
:func:`register` adds a row.

What has a value for each token is an array, filled and copied at once: a tenth of the time that
lists of Python numbers take for a long prompt.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol, Union

import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.format.cache import SCRATCH_BLOCK
from glmc_runtime.format.extent import Extent, Shape
from glmc_runtime.format.phases import VOCABULARY
from glmc_runtime.format.plan import HOST_SUFFIX

TABLE = "table"
"""In a shape, the width of a block table: the manifest's ``blocks_per_sequence``."""
CONTEXT = "context"
"""The longest context that the artifact allows."""

Column = Union[list[int], "array[int]"]
_LONG = 128  # numbers in a row from which torch counts faster than a range does


class Chunk(Protocol):
    """The new tokens of one sequence, the first at position ``start``, and its blocks."""

    @property
    def tokens(self) -> Sequence[int]: ...
    @property
    def start(self) -> int: ...
    @property
    def blocks(self) -> list[int]: ...


class StepValues(Protocol):
    """A step as its inputs see it: ``padding`` rows and ``absent`` sequences are beyond what the
    chunks have. ``sizes`` are those of its bucket by symbol."""

    @property
    def chunks(self) -> Sequence[Chunk]: ...
    @property
    def block_size(self) -> int: ...
    @property
    def padding(self) -> int: ...
    @property
    def absent(self) -> int: ...
    @property
    def sizes(self) -> Mapping[str, int]: ...

    def column(self, name: str) -> Column:
        """The values of another input of one dimension."""


@dataclass(frozen=True)
class StepInput:
    """A row of the table.

    ``shape`` has symbols of the phase, such as ``tokens`` or ``sequences+1``; with :data:`TABLE`
    last it is a table with a row of values for each sequence, whose tail is 0. ``column`` gives the
    values of an input of one dimension, ``rows`` those of a table; both are functions of the step
    alone. ``dtype`` is what programs have; a plan may have any of ``dtypes``. ``host_twin``: the
    same values may be asked for in host memory, under the name with ``_host``. All values are less
    than ``below``: a symbol, :data:`VOCABULARY` or :data:`CONTEXT`. ``from_device``: the values may
    be those of a tensor that the last step left on the device.
    """

    name: str
    dtype: str
    shape: tuple[str, ...]
    meaning: str
    column: Callable[[StepValues], Column] | None = None
    rows: Callable[[StepValues], list[list[int]]] | None = None
    dtypes: tuple[str, ...] = ("int32", "int64")
    host_twin: bool = False
    below: str | None = None
    from_device: bool = False

    def shape_of(self, width: int) -> Shape:
        """The shape in a plan whose block tables have ``width`` columns."""
        return tuple(
            Extent(constant=width) if size == TABLE else Extent.parse(size) for size in self.shape
        )

    def values(self, step: StepValues, width: int) -> list[Any]:
        """The values for ``step`` as a list, of lists for a table of ``width`` columns."""
        if self.rows is None:
            return list(step.column(self.name))
        return [row + [0] * (width - len(row)) for row in self.rows(step)]

    def fits(self, step: StepValues) -> bool:
        """Whether a step has all symbols of the shape."""
        symbols = {name for extent in self.shape_of(1) for name in extent.symbols}
        return symbols <= step.sizes.keys()


def _token_ids(step: StepValues) -> Column:
    ids = array("q")
    for chunk in step.chunks:
        ids.extend(chunk.tokens)
    ids.extend([0] * step.padding)
    return ids


def _positions(step: StepValues) -> Column:
    positions = array("q")
    for chunk in step.chunks:
        _extend(positions, chunk.start, len(chunk.tokens))
    positions.extend([0] * step.padding)
    return positions


def _slot_mapping(step: StepValues) -> Column:
    size = step.block_size
    slots = array("q")
    for chunk in step.chunks:
        position, end = chunk.start, chunk.start + len(chunk.tokens)
        first = number = 0  # a run of slots; that of neighbouring blocks is one
        while position < end:
            slot = chunk.blocks[position // size] * size + position % size
            count = min(end - position, size - position % size)
            if slot != first + number:
                _extend(slots, first, number)
                first, number = slot, 0
            number += count
            position += count
        _extend(slots, first, number)
    # Spread over the scratch block, so that no two of its slots are fought over needlessly.
    slots.extend([SCRATCH_BLOCK * size + row % size for row in range(step.padding)])
    return slots


def _extend(column: array[int], first: int, number: int) -> None:
    """Put ``number`` numbers from ``first`` on after a column."""
    if number < _LONG:
        column.extend(range(first, first + number))
        return
    start = len(column)
    column.frombytes(bytes(number * column.itemsize))
    added = torch.frombuffer(column, dtype=torch.int64)[start:]
    torch.arange(first, first + number, out=added, device="cpu")


def _block_tables(step: StepValues) -> list[list[int]]:
    return [chunk.blocks for chunk in step.chunks] + [[]] * step.absent


def _context_lengths(step: StepValues) -> Column:
    return [chunk.start + len(chunk.tokens) for chunk in step.chunks] + [1] * step.absent


def _cu_seqlens_q(step: StepValues) -> Column:
    lengths = [len(chunk.tokens) for chunk in step.chunks] + [1] * step.absent
    return list(accumulate(lengths, initial=0))


def _cu_seqlens_k(step: StepValues) -> Column:
    return list(accumulate(step.column("context_lengths"), initial=0))


def _last_rows(step: StepValues) -> Column:
    return [end - 1 for end in step.column("cu_seqlens_q")[1:]]


STEP_INPUTS: dict[str, StepInput] = {}


def register(row: StepInput) -> None:
    """Add a row; raises :class:`PlanError` for one that is there already or that nothing fills."""
    table = len(row.shape) == 2 and row.shape[1] == TABLE
    if row.name in STEP_INPUTS or row.name.endswith(HOST_SUFFIX):
        raise PlanError(f"'{row.name}' can't be the name of another step input")
    filled = (row.rows is not None) == table and (row.column is None) == table
    if not filled or len(row.shape) != 1 + table:
        raise PlanError(
            f"nothing fills the step input '{row.name}'",
            expected="rows for [symbol, table], else column",
            found=f"[{', '.join(row.shape)}]",
        )
    STEP_INPUTS[row.name] = row


def names() -> Iterator[str]:
    """All names that a plan may use, those in host memory after their own."""
    for row in STEP_INPUTS.values():
        yield row.name
        if row.host_twin:
            yield row.name + HOST_SUFFIX


def step_input(name: str) -> StepInput:
    """The row of a name, which may be that of a twin in host memory; raises :class:`PlanError`."""
    row = STEP_INPUTS.get(name.removesuffix(HOST_SUFFIX))
    if row is None or (row.name != name and not row.host_twin):
        raise PlanError(f"'{name}' is no step input", expected=", ".join(names()))
    return row


for _row in (
    StepInput(
        "token_ids",
        "int64",
        ("tokens",),
        "ids of the step's tokens; padding rows have 0",
        _token_ids,
        below=VOCABULARY,
        from_device=True,
    ),
    StepInput(
        "positions",
        "int64",
        ("tokens",),
        "position of each token in its sequence; padding rows have 0",
        _positions,
        below=CONTEXT,
    ),
    StepInput(
        "slot_mapping",
        "int64",
        ("tokens",),
        "block * block_size + offset of each token; padding rows point into the scratch block 0",
        _slot_mapping,
    ),
    StepInput(
        "block_tables",
        "int32",
        ("sequences", TABLE),
        "blocks of each sequence; the tail is 0",
        rows=_block_tables,
    ),
    StepInput(
        "context_lengths",
        "int32",
        ("sequences",),
        "tokens in the cache after the step; padding rows have 1",
        _context_lengths,
        host_twin=True,
    ),
    StepInput(
        "cu_seqlens_q",
        "int32",
        ("sequences+1",),
        "prefix sums of new tokens",
        _cu_seqlens_q,
        host_twin=True,
    ),
    StepInput(
        "cu_seqlens_k",
        "int32",
        ("sequences+1",),
        "prefix sums of context lengths, new tokens included",
        _cu_seqlens_k,
        host_twin=True,
    ),
    StepInput(
        "last_rows",
        "int64",
        ("sequences",),
        "row of the last token of each sequence",
        _last_rows,
        below="tokens",
    ),
):
    register(_row)

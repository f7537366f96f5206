"""Step inputs: filled in place into memory that lives as long as the session.

All inputs of a phase share one block of host memory and, on a device, its twin, so that a step
costs one copy. On a CPU the two are the same memory. Values are written through memoryviews: no
tensor is made and no torch function is called.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import accumulate
from math import prod
from typing import Literal

import torch

from glmc_runtime.cache import SCRATCH_BLOCK
from glmc_runtime.dtypes import dtype_of
from glmc_runtime.errors import PlanError, RequestError
from glmc_runtime.plan import STEP_INPUTS, Extent, InputSpec
from glmc_runtime.sequences import Chunk

_FORMATS: dict[str, Literal["i", "q"]] = {"int32": "i", "int64": "q"}
_ALIGNMENT = 64
HOST_SUFFIX = "_host"


class Step:
    """What a step computes: chunks of sequences, padded to ``tokens`` rows.

    ``sequences`` is the padded number of sequences: the bucket in decode, the real one in prefill.
    """

    def __init__(self, chunks: list[Chunk], tokens: int, sequences: int, block_size: int) -> None:
        self.chunks = chunks
        self.tokens = tokens
        self.sequences = sequences
        self.block_size = block_size
        self.padding = tokens - sum([len(chunk.tokens) for chunk in chunks])
        self.absent = sequences - len(chunks)
        self._columns: dict[str, list[int]] = {}

    def column(self, name: str) -> list[int]:
        """The values of a step input; computed once, though host and device both want some."""
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = _COLUMNS[name](self)
        return column


def _token_ids(step: Step) -> list[int]:
    return [token for chunk in step.chunks for token in chunk.tokens] + [0] * step.padding


def _positions(step: Step) -> list[int]:
    positions: list[int] = []
    for chunk in step.chunks:
        positions.extend(range(chunk.start, chunk.start + len(chunk.tokens)))
    return positions + [0] * step.padding


def _slot_mapping(step: Step) -> list[int]:
    size = step.block_size
    slots: list[int] = []
    for chunk in step.chunks:
        blocks = chunk.blocks
        for position in range(chunk.start, chunk.start + len(chunk.tokens)):
            slots.append(blocks[position // size] * size + position % size)
    # Spread over the scratch block, so that no two of its slots are fought over needlessly.
    return slots + [SCRATCH_BLOCK * size + row % size for row in range(step.padding)]


def _context_lengths(step: Step) -> list[int]:
    return [chunk.start + len(chunk.tokens) for chunk in step.chunks] + [1] * step.absent


def _query_lod(step: Step) -> list[int]:
    lengths = [len(chunk.tokens) for chunk in step.chunks] + [1] * step.absent
    return list(accumulate(lengths, initial=0))


def _context_lod(step: Step) -> list[int]:
    return list(accumulate(step.column("context_lengths"), initial=0))


def _last_rows(step: Step) -> list[int]:
    return [end - 1 for end in step.column("query_lod")[1:]]


_COLUMNS: dict[str, Callable[[Step], list[int]]] = {
    "token_ids": _token_ids,
    "positions": _positions,
    "slot_mapping": _slot_mapping,
    "context_lengths": _context_lengths,
    "query_lod": _query_lod,
    "context_lod": _context_lod,
    "last_rows": _last_rows,
}
_TABLE = "block_tables"


_TOKENS, _SEQUENCES = Extent(tokens=1), Extent(sequences=1)
_ENDS = Extent(sequences=1, constant=1)
_LENGTHS: dict[str, Extent] = {
    "token_ids": _TOKENS,
    "positions": _TOKENS,
    "slot_mapping": _TOKENS,
    "block_tables": _SEQUENCES,
    "context_lengths": _SEQUENCES,
    "query_lod": _ENDS,
    "context_lod": _ENDS,
    "last_rows": _SEQUENCES,
}


def check_input(spec: InputSpec, blocks_per_sequence: int) -> None:
    """Raise :class:`PlanError` unless the runtime knows the input and fills all of its shape."""
    if spec.name not in STEP_INPUTS:
        raise PlanError(f"'{spec.name}' is no step input", expected=", ".join(STEP_INPUTS))
    if spec.dtype not in _FORMATS:
        raise PlanError(
            f"step input '{spec.name}' can't be {spec.dtype}", expected="int32 or int64"
        )
    name = spec.name.removesuffix(HOST_SUFFIX)
    shape: tuple[Extent, ...] = (_LENGTHS[name],)
    if name == _TABLE:
        shape += (Extent(constant=blocks_per_sequence),)
    if spec.shape != shape:
        raise PlanError(
            f"step input '{spec.name}' has another shape",
            expected=", ".join(map(str, shape)),
            found=", ".join(map(str, spec.shape)),
        )


class _Field:
    """One input: where it lies in the phase's memory, and how a step's values get there."""

    def __init__(self, spec: InputSpec, offset: int, tokens: int, sequences: int) -> None:
        self.spec = spec
        self.name = spec.name.removesuffix(HOST_SUFFIX)
        self.on_host = spec.name.endswith(HOST_SUFFIX)
        self.format = _FORMATS[spec.dtype]
        self.dtype = dtype_of(spec.dtype)
        self.offset = offset
        self.length = prod(extent.evaluate(tokens, sequences) for extent in spec.shape)
        self.bytes = self.length * self.dtype.itemsize
        self.values: memoryview[int] = memoryview(b"")
        self.width = spec.shape[-1].constant if self.name == _TABLE else 0
        self.rows: list[list[int]] = [[]] * (sequences if self.width else 0)

    def write(self, step: Step) -> None:
        if self.name == _TABLE:
            self._write_table(step)
            return
        column = array(self.format, step.column(self.name))
        self.values[: len(column)] = column

    def _write_table(self, step: Step) -> None:
        """Rows of blocks; only rows that changed since the last step are written."""
        tables = [chunk.blocks for chunk in step.chunks] + [[]] * step.absent
        for row, blocks in enumerate(tables):
            old = self.rows[row]
            if old == blocks:
                continue
            if len(blocks) > self.width:
                raise RequestError(
                    "a sequence owns more blocks than its row of the block table has room for",
                    expected=f"at most {self.width} blocks",
                    found=f"{len(blocks)}",
                    remedy="give it blocks for at most max_context tokens",
                )
            padded = blocks + [0] * (len(old) - len(blocks))
            start = row * self.width
            self.values[start : start + len(padded)] = array(self.format, padded)
            self.rows[row] = list(blocks)


class StepInputs:
    """The inputs of one phase, for steps of up to ``tokens`` rows and ``sequences`` sequences.

    The specs have passed :func:`check_input`.
    """

    def __init__(
        self, specs: tuple[InputSpec, ...], tokens: int, sequences: int, device: torch.device
    ) -> None:
        # The block tables come last: they are the largest, and a copy ends at their last used row.
        ordered = sorted(specs, key=lambda spec: spec.name.startswith(_TABLE))
        self._fields: dict[str, _Field] = {}
        end = 0
        for spec in ordered:
            field = _Field(spec, end, tokens, sequences)
            self._fields[spec.name] = field
            end = -(-(end + field.bytes) // _ALIGNMENT) * _ALIGNMENT
        storage = bytearray(max(end, 1))
        self._host = torch.frombuffer(storage, dtype=torch.uint8)
        self._device = self._host if device.type == "cpu" else self._host.to(device)
        self._copies: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        view = memoryview(storage)
        for field in self._fields.values():
            field.values = view[field.offset : field.offset + field.bytes].cast(field.format)

    def fill(self, step: Step) -> None:
        """Write the values of ``step``; on a device also copy them there (synchronously)."""
        for field in self._fields.values():
            field.write(step)
        if self._device is not self._host:
            target, source = self._copy_views(step.sequences)
            target.copy_(source)

    def view(self, name: str, shape: tuple[int, ...] | None, step: tuple[int, int]) -> torch.Tensor:
        """A prefix of an input as a tensor; ``shape`` None is its own at (tokens, sequences)."""
        field = self._fields.get(name)
        if field is None:
            raise PlanError(f"the phase does not declare the step input '{name}'")
        if shape is None:
            shape = tuple(extent.evaluate(*step) for extent in field.spec.shape)
        length = prod(shape) * field.dtype.itemsize
        if length > field.bytes:
            raise PlanError(f"a view of step input '{name}' is too large", found=str(list(shape)))
        memory = self._host if field.on_host else self._device
        return memory[field.offset : field.offset + length].view(field.dtype).view(shape)

    def _copy_views(self, sequences: int) -> tuple[torch.Tensor, torch.Tensor]:
        if sequences not in self._copies:
            end = 0
            for field in self._fields.values():
                rows = sequences * field.width * field.dtype.itemsize
                end = max(end, field.offset + (rows or field.bytes))
            self._copies[sequences] = (self._device[:end], self._host[:end])
        return self._copies[sequences]

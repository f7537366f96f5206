"""Step inputs: filled in place into memory that lives as long as the session.

The inputs that are on the device share one block of its memory, so that a step costs one copy. It
comes from one of a few blocks of pinned host memory, used in turn: the host writes the next step
while the copy of this one is pending, and waits for nothing but a copy that is as many steps old.
On a CPU the step reads what the host writes, and nothing is copied. Values are written through
memoryviews: a decode step makes no tensor and calls no torch function for them.

``*_host`` inputs have a fixed place. Host kernels read them as they are called, so they belong to
the step that was filled last.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Mapping
from math import prod
from typing import Any, Literal

import torch

from glmc_runtime.errors import CapacityError, PlanError, RequestError
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.memory import aligned, input_bytes
from glmc_runtime.format.plan import HOST_SUFFIX, InputSpec
from glmc_runtime.format.step_inputs import step_input
from glmc_runtime.kernels import Thunk
from glmc_runtime.replay.arena import machine_memory
from glmc_runtime.replay.step import Step

_FORMATS: dict[str, Literal["i", "q"]] = {"int32": "i", "int64": "q"}
STAGES = 3


def check_input(spec: InputSpec, blocks_per_sequence: int) -> None:
    """Raise :class:`PlanError` unless the runtime knows the input and fills all of its shape."""
    row = step_input(spec.name)
    allowed = [dtype for dtype in row.dtypes if dtype in _FORMATS]
    if spec.dtype not in allowed:
        raise PlanError(
            f"step input '{spec.name}' can't be {spec.dtype}", expected=" or ".join(allowed)
        )
    shape = row.shape_of(blocks_per_sequence)
    if spec.shape != shape:
        raise PlanError(
            f"step input '{spec.name}' has another shape",
            expected=", ".join(map(str, shape)),
            found=", ".join(map(str, spec.shape)),
        )


class _Field:
    """One input: where it is in its block of memory. Its room is for the largest step."""

    def __init__(self, spec: InputSpec, offset: int, sizes: Mapping[str, int]) -> None:
        self.spec = spec
        self.row = step_input(spec.name)
        self.name = self.row.name
        self.on_host = spec.name.endswith(HOST_SUFFIX)
        self.format = _FORMATS[spec.dtype]
        self.dtype = dtype_of(spec.dtype)
        self.offset = offset
        self.bytes = input_bytes(spec, sizes)
        self.end = offset + aligned(self.bytes)
        self.width = spec.shape[-1].constant if self.row.rows is not None else 0
        self.rows = spec.shape[0].evaluate(sizes) if self.width else 0


class _Writer:
    """Writes one input into one block of host memory, and knows what it wrote there last."""

    def __init__(self, field: _Field, memory: memoryview[int]) -> None:
        self.field = field
        part = memory[field.offset : field.offset + field.bytes]
        self._values: memoryview[int] = part.cast(field.format)
        self._table = field.row.rows
        self._rows: list[list[int]] = [[]] * field.rows

    def write(self, step: Step) -> None:
        field = self.field
        if self._table is not None:
            self._write_rows(self._table(step))
            return
        column = step.column(field.name)
        if not isinstance(column, array) or column.typecode != field.format:
            column = array(field.format, column)
        self._values[: len(column)] = column

    def _write_rows(self, rows: list[list[int]]) -> None:
        """Rows of a table, such as blocks; only those that changed since they were written here
        are written."""
        width = self.field.width
        for row, blocks in enumerate(rows):
            old = self._rows[row]
            if old == blocks:
                continue
            if len(blocks) > width:
                raise RequestError(
                    "a sequence owns more blocks than its row of the block table has room for",
                    expected=f"at most {width} blocks",
                    found=f"{len(blocks)}",
                    remedy="give it blocks for at most max_context tokens",
                )
            padded = blocks + [0] * (len(old) - len(blocks))
            start = row * width
            self._values[start : start + len(padded)] = array(self.field.format, padded)
            self._rows[row] = list(blocks)


class _Stage:
    """A block of host memory that the device's block is copied from."""

    def __init__(self, fields: list[_Field], size: int, device: torch.device) -> None:
        self.memory = torch.zeros(size, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        address = (ctypes.c_ubyte * size).from_address(self.memory.data_ptr())
        view = memoryview(address).cast("B")
        self.writers = [_Writer(field, view) for field in fields]
        self.copied = torch.cuda.Event() if device.type == "cuda" else None


class StepInputs:
    """The inputs of one phase, for steps of up to ``sizes`` by symbol.

    The specs have passed :func:`check_input`. ``staged`` says whether the step reads a copy of what
    the host writes; None is: on a device.
    """

    def __init__(
        self,
        specs: tuple[InputSpec, ...],
        sizes: Mapping[str, int],
        device: torch.device,
        staged: bool | None = None,
    ) -> None:
        # What the device may have comes first and tables come last: a copy may begin after the
        # one, and ends at the last used row of the others, which are the largest.
        ordered = sorted(specs, key=_order)
        self._fields: dict[str, _Field] = {}
        ends = {True: 0, False: 0}
        for spec in ordered:
            on_host = spec.name.endswith(HOST_SUFFIX)
            field = _Field(spec, ends[on_host], sizes)
            self._fields[spec.name] = field
            ends[on_host] = field.end
        size, most = max(ends.values()), machine_memory()
        if size > most:
            raise CapacityError(
                "the inputs of a step do not fit into memory",
                expected=f"at most {most} bytes",
                found=f"{size} bytes",
                remedy="compile with smaller buckets or a shorter max_context",
            )
        near = [field for field in self._fields.values() if field.on_host]
        self._far = [field for field in self._fields.values() if not field.on_host]
        self._host, view = _host_memory(max(ends[True], 1))
        self._writers = [_Writer(field, view) for field in near]
        self._stages: list[_Stage] = []
        self._turn = 0
        size = max(ends[False], 1)
        if device.type != "cpu" if staged is None else staged:
            self._device = torch.zeros(size, dtype=torch.uint8, device=device)
            self._stages = [_Stage(self._far, size, device) for _ in range(STAGES)]
        else:
            self._device, view = _host_memory(size)
            self._writers += [_Writer(field, view) for field in self._far]
        self._from_device = next((field.name for field in self._far if field.row.from_device), None)
        tables = [field.spec.shape[0] for field in self._far if field.width]
        self._rows = tuple(dict.fromkeys(name for rows in tables for name in rows.symbols))
        self._copies: dict[tuple[Any, ...], tuple[torch.Tensor, torch.Tensor]] = {}
        self._ids: dict[int, torch.Tensor] = {}

    def fill(self, step: Step, tokens: torch.Tensor | None = None) -> None:
        """Write the values of ``step``; on a device also enqueue their copy there.

        With ``tokens``, int64 on the device and at least as many as the step has rows, the input
        that may be (``from_device``, the token ids) is copied from there after what is enqueued
        already, and those of the step are not looked at.
        """
        ids_on_device = tokens is not None
        for writer in self._writers:
            if not (ids_on_device and writer.field.row.from_device):
                writer.write(step)
        if self._stages:
            self._upload(step, ids_on_device)
        if tokens is not None:
            rows = step.tokens
            ids = self._ids.get(rows)
            if ids is None:
                if self._from_device is None:
                    raise PlanError(
                        "the phase does not declare an input that may come from the device"
                    )
                ids = self.view(self._from_device, (rows,), step.sizes)
                self._ids[rows] = ids
            ids.copy_(tokens[:rows])

    def thunks(self, sizes: Mapping[str, int]) -> tuple[Thunk, ...]:
        """What runs before the calls of a step; nothing, as :meth:`fill` has written it all."""
        return ()

    def view(
        self, name: str, shape: tuple[int, ...] | None, sizes: Mapping[str, int]
    ) -> torch.Tensor:
        """A prefix of an input as a tensor; ``shape`` None is its own at ``sizes``."""
        field = self._fields.get(name)
        if field is None:
            raise PlanError(f"the phase does not declare the step input '{name}'")
        if shape is None:
            shape = tuple(extent.evaluate(sizes) for extent in field.spec.shape)
        length = prod(shape) * field.dtype.itemsize
        if length > field.bytes:
            raise PlanError(f"a view of step input '{name}' is too large", found=str(list(shape)))
        memory = self._host if field.on_host else self._device
        return memory[field.offset : field.offset + length].view(field.dtype).view(shape)

    def _upload(self, step: Step, ids_on_device: bool) -> None:
        number = self._turn
        stage = self._stages[number]
        if stage.copied is not None:
            stage.copied.synchronize()  # over long ago, unless the device is STAGES steps behind
        for writer in stage.writers:
            if not (ids_on_device and writer.field.row.from_device):
                writer.write(step)
        sizes = step.sizes
        key = (number, ids_on_device, *[sizes[name] for name in self._rows])
        views = self._copies.get(key)
        if views is None:
            views = self._copies[key] = self._copy_views(stage, sizes, ids_on_device)
        target, source = views
        target.copy_(source, non_blocking=True)
        if stage.copied is not None:
            stage.copied.record()
        self._turn = (number + 1) % len(self._stages)

    def _copy_views(
        self, stage: _Stage, sizes: Mapping[str, int], ids_on_device: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = end = 0
        for field in self._far:
            if ids_on_device and field.row.from_device:
                start = field.end
            used = field.bytes
            if field.width:
                rows = field.spec.shape[0].evaluate(sizes)
                used = rows * field.width * field.dtype.itemsize
            end = max(end, field.offset + used)
        return self._device[start:end], stage.memory[start:end]


def _order(spec: InputSpec) -> tuple[bool, bool]:
    row = step_input(spec.name)
    return row.rows is not None, not row.from_device


def _host_memory(size: int) -> tuple[torch.Tensor, memoryview[int]]:
    storage = bytearray(size)
    return torch.frombuffer(storage, dtype=torch.uint8), memoryview(storage)

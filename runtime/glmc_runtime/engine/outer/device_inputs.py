"""Step inputs on a GPU, filled by a kernel that reads from a table where an engine's tensors are.

Engines keep the tensors of a step where they are, so that the table seldom changes: in most decode
steps the host only sees that it has not.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch

from glmc_runtime.engine.outer.step import Form, OuterStep
from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.cuda.step_inputs import SOURCES, TABLE_SIZE, bind_fill

_NOTHING = (0,) * TABLE_SIZE


class DeviceInputs:
    """The step inputs of one phase that are on the device: ``views`` by name."""

    def __init__(
        self,
        views: dict[str, torch.Tensor],
        device: torch.device,
        block_size: int,
        scratch_block: int,
    ) -> None:
        self._views = views
        self._device = device
        self._block_size, self._scratch_block = block_size, scratch_block
        self._table = torch.zeros(TABLE_SIZE, dtype=torch.int64, device=device)
        self._written = _NOTHING
        self._form: Form | None = None
        self._sources: list[torch.Tensor] = []

    def thunk(self, sizes: Mapping[str, int]) -> Thunk:
        """The launch that fills the inputs of steps of up to these sizes, as the table says when
        it runs."""
        return bind_fill(self._table, self._views, sizes, self._block_size, self._scratch_block)

    def fill(self, step: OuterStep, tokens: int, sequences: int, form: Form | None = None) -> None:
        """Have the launch read this step, padded to ``tokens`` and ``sequences``. Steps of the same
        ``form`` are padded alike."""
        if form is not None and form is self._form:
            return
        self._form = None
        given = [getattr(step, name) for name in SOURCES]
        sources = [
            self._readable(each, step.sequences if name == "block_tables" else None)
            for name, each in zip(SOURCES, given, strict=True)
        ]
        wide = 0
        for number, source in enumerate(sources):
            wide |= (source.dtype is torch.int64) << number
        tables = sources[-1]
        self._write(
            (
                *[source.data_ptr() for source in sources],
                wide,
                step.tokens,
                tokens,
                step.sequences,
                sequences,
                min(tables.shape[1], self._columns),
                tables.stride(0),
                int(step.is_decode),
            )
        )
        self._sources = sources  # copies that were made here live until the step has been enqueued
        if all(map(operator.is_, sources, given)):  # else there is a copy to be made at each step
            self._form = form

    def clear(self) -> None:
        """Have the launch fill nothing: the inputs hold what was written there otherwise."""
        self._form = None
        self._write(_NOTHING)

    @property
    def _columns(self) -> int:
        tables = self._views.get("block_tables")
        return 0 if tables is None else tables.shape[1]

    def _readable(self, source: torch.Tensor, rows: int | None) -> torch.Tensor:
        """A tensor as the kernel reads it: on the device, rows contiguous; of a table that has to
        be copied its first ``rows``."""
        if source.device == self._device and source.stride(-1) == 1:
            return source
        return source[:rows].to(self._device, non_blocking=True).contiguous()

    def _write(self, numbers: tuple[int, ...]) -> None:
        if numbers == self._written:
            return
        on_host = torch.tensor(numbers, dtype=torch.int64, device="cpu")
        if self._device.type == "cuda":
            on_host = on_host.pin_memory()
        self._table.copy_(on_host, non_blocking=True)
        self._written = numbers

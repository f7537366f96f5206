"""A sink that keeps what is recorded, as a record in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glmc_runtime.format.tensor_key import TensorKey
from glmc_runtime.record.sink import Part
from tests.check.align.memory_record import MemoryRecord


class MemorySink:
    """``record`` is complete when the recorder returns."""

    def __init__(self, label: str) -> None:
        self.record = MemoryRecord(label, {"tool": "glmc"})
        self._step = 0
        self._parts: dict[tuple[int, TensorKey], Tensor] = {}

    def begin(self, step: int, lengths: Sequence[int]) -> None:
        self._step = step

    def write(
        self,
        keys: Sequence[TensorKey],
        tensor: Tensor,
        facts: Mapping[str, Any],
        part: Part | None = None,
    ) -> None:
        whole = tensor.detach().clone()
        if part is not None:
            place = self._step, keys[0]
            known = self._parts.get(place)
            filled = torch.zeros(part.whole(tensor.shape), dtype=tensor.dtype)
            whole = filled if known is None else known
            whole.narrow(part.axis, part.begin, tensor.shape[part.axis]).copy_(tensor)
            self._parts[place] = whole
            if known is not None:
                return
        for key in keys:
            self.record.add(str(key), whole, step=self._step, **facts)

    def link(self, key: TensorKey, step: int, written: TensorKey) -> None:
        recorded = self.record.recorded
        same = next(each for each in recorded if (each.step, each.key) == (step, written))
        assert same.load is not None
        self.record.add(str(key), same.load(), step=self._step, **same.facts)

    def describe(self, facts: Mapping[str, Any]) -> None:
        self.record.facts = {**self.record.facts, **facts}


def of_checkpoint(folder: Path, options: Any, **settings: Any) -> MemoryRecord:
    from glmc.check.align.reference import record_checkpoint

    sink = MemorySink(folder.name)
    record_checkpoint(folder, sink, options, **settings)
    return sink.record


def of_artifact(path: Path, options: Any) -> MemoryRecord:
    from glmc_runtime.record.artifact import record_artifact

    sink = MemorySink(path.name)
    sink.describe(record_artifact(path, sink, options) or {})
    return sink.record

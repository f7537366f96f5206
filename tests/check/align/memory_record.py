"""Records in memory, as a file would have them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from glmc_runtime.format.tensor_key import parse_key
from glmc_runtime.record.tensors import RecordedTensor, Statistics


@dataclass
class MemoryRecord:
    """Takes tensors by their keys, in order of execution."""

    label: str = "record"
    facts: Mapping[str, Any] = field(default_factory=dict)
    recorded: list[RecordedTensor] = field(default_factory=list)

    def tensors(self) -> Iterator[RecordedTensor]:
        yield from self.recorded

    def add(
        self,
        key: str,
        value: Tensor,
        *,
        step: int = 0,
        keep: str = "all",
        dtype: str | None = None,
        **facts: Any,
    ) -> None:
        """``keep`` is ``all``, ``statistics``, or rows such as ``0,3``."""
        parsed = parse_key(key)
        assert parsed is not None, key
        rows = None if keep in ("all", "statistics") else tuple(map(int, keep.split(",")))
        stored = value if rows is None else value.reshape(-1, value.shape[-1])[list(rows)]
        self.recorded.append(
            RecordedTensor(
                step,
                len(self.recorded),
                parsed,
                dtype or str(value.dtype).removeprefix("torch."),
                tuple(value.shape),
                statistics(value),
                rows,
                None if keep == "statistics" else lambda: stored,
                facts,
            )
        )

    def without_statistics(self) -> MemoryRecord:
        """As a file of another tool has them."""
        bare = [replace(each, statistics=None) for each in self.recorded]
        return MemoryRecord(self.label, self.facts, bare)


def statistics(value: Tensor) -> Statistics:
    exact = value.double()
    finite = exact[exact.isfinite()]
    nan, inf = int(exact.isnan().sum()), int(exact.isinf().sum())
    if not len(finite):
        return Statistics(math.nan, math.nan, math.nan, math.nan, nan, inf)
    std = float(torch.std(finite, correction=0))
    return Statistics(float(finite.min()), float(finite.max()), float(finite.mean()), std, nan, inf)

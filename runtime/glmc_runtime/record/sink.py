"""Where the tensors of a run go while it is recorded: into a file, or into memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from glmc_runtime.format.tensor_key import TensorKey


class Sink(Protocol):
    """Takes recorded tensors, step by step and in order of execution.

    What is known of a run as a whole (see :class:`glmc_runtime.record.tensors.Record`) is what the
    function that records returns; whoever opened the sink writes it down and closes it.
    """

    def tensor(
        self, step: int, keys: tuple[TensorKey, ...], value: Tensor, facts: Mapping[str, Any]
    ) -> None:
        """A tensor of step ``step`` (0 is prefill) under the first of its ``keys``; the others are
        names of the same. ``value`` has real rows only, may be on any device, of any strides, and
        is overwritten by what runs next: whatever is kept of it is copied before this returns.
        ``facts`` are those of :class:`glmc_runtime.record.tensors.RecordedTensor`."""
        ...

"""What a record has of a tensor: all of it, some rows, or statistics alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from glmc_runtime.format.tensor_key import TensorKey


@dataclass(frozen=True)
class Statistics:
    """Of the finite elements; ``nan`` and ``inf`` count the others. Of a tensor without finite
    elements the first four are NaN."""

    minimum: float
    maximum: float
    mean: float
    std: float
    nan: int
    inf: int


@dataclass(frozen=True)
class RecordedTensor:
    """A tensor of step ``step``, the ``order``-th of its record in order of execution.

    ``dtype`` is torch's name of what was computed, such as ``bfloat16``, whatever the file stores.
    ``shape`` is that of the whole tensor; ``rows`` says which of its first dimension, all others
    flattened into it but the last, are stored (None: all). ``load`` reads what is stored; None
    where that is statistics alone. ``facts`` are of our own records: ``node``, ``phase``, ``call``,
    ``function``, ``op``, ``layer``, ``source``, ``passes``.
    """

    step: int
    order: int
    key: TensorKey
    dtype: str
    shape: tuple[int, ...]
    statistics: Statistics | None
    rows: tuple[int, ...] | None = None
    load: Callable[[], Tensor] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Record(Protocol):
    """Recorded tensors, whichever tool wrote them.

    ``facts`` of the whole: of ours ``tool`` (glmc), ``made_by``, ``model``, ``target``, ``dtype``,
    ``emulated``, ``prompts`` (token ids of each step's sequences); of a foreign file what it says.
    """

    label: str
    facts: Mapping[str, Any]

    def tensors(self) -> Iterator[RecordedTensor]:
        """All of them, by step and in order of execution; nothing is read before ``load``."""
        ...

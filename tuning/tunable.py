"""One kernel at one shape, as tuning.tune_cuda measures and tries it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

Arguments = dict[str, Any]
Configuration = dict[str, Any]


@dataclass(frozen=True)
class Tunable:
    """``kernel`` is bound as ``cuda.<kernel>`` with ``make``'s arguments and a configuration; what
    wins goes to the table under ``kernel``, ``dtype``, ``key`` and ``rows``.

    ``make(device, generator)`` draws fresh random arguments, all outputs poisoned with NaN; it is
    called once for each copy that the measurement rotates over, so it makes the large tensors too.
    ``reference(arguments)`` computes the outputs by their argument names in float32 or float64 and
    changes nothing in ``arguments``. ``candidates()`` yields configurations, the one most likely
    to win first. ``bytes`` is what one call must read and write, ``footprint`` the memory of one
    copy (0: ``bytes``). An output may differ from the reference by ``tolerance`` of the largest
    entry of the reference. ``library`` is a configuration that goes to a library: it is measured
    too and shown beside the winner.
    """

    kernel: str
    key: str
    rows: int
    dtype: torch.dtype
    bytes: int
    make: Callable[[torch.device, torch.Generator], Arguments]
    reference: Callable[[Arguments], dict[str, torch.Tensor]]
    candidates: Callable[[], Iterable[Configuration]]
    tolerance: float = 1e-2
    footprint: int = 0
    library: Configuration | None = None

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

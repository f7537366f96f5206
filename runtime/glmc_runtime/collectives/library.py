"""The collectives of ``torch.distributed`` itself."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from glmc_runtime.collectives.wire import Thunk, Wire


def library_all_reduce(wire: Wire, x: Tensor) -> list[Thunk]:
    """The steps of an all-reduce in place, in the library's order of sums."""
    call: Any = wire.process_group.allreduce
    tensors = [x]
    return [lambda: call(tensors).wait()]

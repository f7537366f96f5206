"""Zeros that take no memory until they are written.

Torch writes the zeros that it is asked for; a cache of which a part is used would have all of its
pages, and seconds would go by until the last is written. Pages of a new mapping are zeros that the
system makes when they are first touched.
"""

from __future__ import annotations

import mmap
from math import prod

import torch

_SMALL = 1 << 20
"""Bytes below which a mapping is not worth its pages."""


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """As ``torch.zeros``. Raises RuntimeError or OSError where there is no memory."""
    size = prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < _SMALL or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.zeros(shape, dtype=dtype, device=device)
    # Private: shared memory would belong to a file system, and its size may be limited.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype).view(shape)

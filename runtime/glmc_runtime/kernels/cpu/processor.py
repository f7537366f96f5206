"""What the processor can multiply."""

from __future__ import annotations

from functools import cache

import torch


def multiplies(dtype: torch.dtype) -> bool:
    """Whether this processor has products of ``dtype`` that oneDNN uses."""
    if dtype not in (torch.bfloat16, torch.float16):
        return True
    if not torch.backends.mkldnn.is_available():
        return False
    narrow = torch.ops.mkldnn
    if dtype == torch.bfloat16:
        return bool(narrow._is_mkldnn_bf16_supported())
    return bool(narrow._is_mkldnn_fp16_supported())


@cache
def multiplies_tiles() -> bool:
    """Whether the processor has AMX and the system lets a process use it; a torch that can't say is
    taken not to use it."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return supported is not None and bool(supported())

"""An emulator of the Kunlun vendor libraries' calling convention, in plain torch.

This is not the hardware: it models what is publicly recorded about the calls, traps included, so
that a wrong lowering fails on a CPU. Every result obtained with it is "emulated".
"""

from __future__ import annotations

from . import (  # noqa: F401 - each registers its kernels
    activation,
    attention_decode,
    attention_prefill,
    kv_cache,
    matmul,
    moe_experts,
    moe_gate,
    norms,
    rotary,
)
from .errors import GuardError, UnmodelledError, VendorCheckError
from .vendor import EmulatedVendor, install, load

__all__ = [
    "EmulatedVendor",
    "GuardError",
    "UnmodelledError",
    "VendorCheckError",
    "install",
    "load",
]

"""The one table of the vendor's functions that an artifact may call.

One row for each function, which compiler, allow-list, guard steps, doctor and emulator read. Facts
are from public code that calls the closed libraries, named in ``source`` by project: vllm-kunlun
(0.15.1; its 0.25.1 branch where said), vllm-kunlun-exp (a fork for torch 2.9) and sglang-kunlun. A
keyword list is what call sites show; ``P-C`` is taken to keep the list of ``P-A`` where no call
site shows a difference. Nothing here was run on Kunlun hardware.

What nothing of glmc passes is in no schema, and no artifact passes it either. Indices that one call
hands to another are held together by name and bound, so that a plan can't have a kernel read
outside of its table.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from glmc_runtime.kernels.vendor_functions.attention import ATTENTION
from glmc_runtime.kernels.vendor_functions.dense import DENSE
from glmc_runtime.kernels.vendor_functions.experts import EXPERTS
from glmc_runtime.kernels.vendor_functions.row import NAMESPACE, VendorFunction

_ROWS = {row.name: row for row in (*DENSE, *ATTENTION, *EXPERTS)}
VENDOR_FUNCTIONS: Mapping[str, VendorFunction] = MappingProxyType(_ROWS)
"""The rows by name. A function that glmc lowers to is added to them, and nowhere else."""


def vendor_function(qualified: str) -> VendorFunction | None:
    """The row of ``kunlun_ops.<name>``: what has none, no artifact may call."""
    family, _, name = qualified.partition(".")
    return VENDOR_FUNCTIONS.get(name) if family == NAMESPACE else None

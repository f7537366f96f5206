"""The Kunlun backend: ``--target xpu``.

What a profile offers, out of the runtime's table of vendor functions (``abi.py``), limits that are
refused at compile time (``limits.py``), and one rule per semantic op (``rules_*.py``). No Kunlun
hardware was at hand: whatever ran, ran on the emulator.
"""

from __future__ import annotations

from types import MappingProxyType

from glmc.backends.kunlun import (
    limits,
    rules_attention,
    rules_dense,
    rules_moe,
    rules_traced,
)
from glmc.lowering import collectives, ordered_ranks, plain
from glmc.lowering.target import Target
from glmc_runtime.kernels.vendor_functions.dense import SWIGLU_ROW_BYTES
from glmc_runtime.kernels.vendor_functions.row import PROFILES

_ORDERED = {
    **plain.EXACT,
    **collectives.RULES,
    **rules_dense.RULES,
    **rules_attention.RULES,
    **rules_moe.RULES,
}
TARGET = Target(
    name="xpu",
    rules=MappingProxyType(
        {
            **plain.RULES,
            **collectives.RULES,
            **rules_dense.RULES,
            **rules_attention.RULES,
            **rules_moe.RULES,
            **rules_traced.RULES,
        },
    ),
    cache_layout="blocks_heads_tokens",
    dtypes=limits.DTYPES,
    profiles=PROFILES,
    check=limits.check,
    ordered=MappingProxyType({"batch": _ORDERED, "ranks": {**_ORDERED, **ordered_ranks.RULES}}),
    as_made=rules_moe.AS_MADE | ordered_ranks.AS_MADE,
    column_multiple=SWIGLU_ROW_BYTES // 2,  # of 2 bytes each
)

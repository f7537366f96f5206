"""The CPU backend: ``--target cpu``. ATen and oneDNN, without a compiler on the target.

Caches are [blocks, block_size, kv_heads, head_dim]: a run of consecutive blocks is then one strided
matrix per head, and attention reads it in place.
"""

from __future__ import annotations

from types import MappingProxyType

import torch

from glmc.backends.cpu import ordered
from glmc.backends.cpu.rules import RULES
from glmc.backends.dynamo_rules import TracedRules
from glmc.lowering import collectives, ordered_ranks, plain
from glmc.lowering.target import Target

TARGET = Target(
    name="cpu",
    rules=MappingProxyType(
        {**plain.RULES, **collectives.RULES, **RULES, **TracedRules("cpu").rules()}
    ),
    cache_layout="blocks_tokens_heads",
    dtypes=(torch.float32, torch.bfloat16, torch.float16),
    as_made=ordered_ranks.AS_MADE,
    ordered=MappingProxyType({"batch": ordered.RULES, "ranks": ordered.OF_RANKS}),
)

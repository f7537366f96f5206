"""The CPU backend: ``--target cpu``. ATen and oneDNN, without a compiler on the target.

Caches are [blocks, block_size, kv_heads, head_dim]: a run of consecutive blocks is then one strided
matrix per head, and attention reads it in place.
"""

from __future__ import annotations

from types import MappingProxyType

import torch

from glmc.backends import plain
from glmc.backends.base import Target
from glmc.backends.cpu_rules import RULES
from glmc.backends.traced_rules import TracedRules

TARGET = Target(
    name="cpu",
    rules=MappingProxyType({**plain.RULES, **RULES, **TracedRules("cpu").rules()}),
    cache_layout="blocks_tokens_heads",
    dtypes=(torch.float32, torch.bfloat16, torch.float16),
)

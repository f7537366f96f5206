"""The CUDA backend: ``--target cuda``. Triton kernels of our own, cuBLAS where many rows meet.

It fuses what the Kunlun target fuses, with a twin of each fused vendor call. Lengths are read on
the device, so a decode step has no host call and is one device graph, its greedy tokens included.
Compiling needs neither a GPU nor Triton.
"""

from __future__ import annotations

from types import MappingProxyType

import torch

from glmc.backends.cuda.dynamo_rules import traced_rules
from glmc.backends.cuda.rules import RULES
from glmc.lowering import collectives, plain
from glmc.lowering.target import Target

TARGET = Target(
    name="cuda",
    rules=MappingProxyType({**plain.RULES, **collectives.RULES, **traced_rules(RULES)}),
    cache_layout="blocks_heads_tokens",
    dtypes=(torch.float32, torch.bfloat16, torch.float16),
    greedy="cuda.greedy",
)

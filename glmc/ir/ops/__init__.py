"""The ``glmc::`` ops; importing this package registers all of them."""

from glmc.ir.ops import attention, collectives, linear, marked, masked_attention, moe, norms, rotary
from glmc.ir.ops.registry import OPS, Numerics, SemanticOp, semantic_op

__all__ = [
    "OPS",
    "Numerics",
    "SemanticOp",
    "attention",
    "collectives",
    "linear",
    "marked",
    "masked_attention",
    "moe",
    "norms",
    "rotary",
    "semantic_op",
]

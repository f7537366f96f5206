"""rope_decode_attention: rope and cache write join the decode attention that reads them.

Before: ``decode_attention(qkv_rope_cache(qkv, ...), ...)``. After: ``glmc.rope_decode_attention``,
for a target whose attention rotates the query it holds and takes the new key and value from the
projection: one launch less in each layer, and the query is never written. It pays with one new
token per sequence, so in decode. Anchor: ``glmc.decode_attention``. Reordered, as attention is.

Refuses a query that is read elsewhere and an attention over another cache than the one written.

Safe where the attention reads the very cache that is written and nobody else reads the query; rows
of a step that see each other's new token would make it unsafe (``PhasePlan.fused_cache_write``).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.ops import Numerics
from glmc.ir.ops.attention import ROPE_DECODE_ATTENTION
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes.base import AnchorPass

NAME = "rope_decode_attention"
_WRITTEN = "glmc.qkv_rope_cache"


@dataclass(frozen=True)
class WrittenAndRead:
    write: Node
    attention: Node


def match(anchor: Node, program: Program) -> WrittenAndRead:
    query = m.operand(anchor, 0)
    if not m.is_op(query, "getitem") or not m.is_op(m.argument(query, 0), _WRITTEN):
        m.unrelated(anchor)
    write = m.operand(query, 0)
    m.require(m.argument(query, 1) == 0, query, "the query must be the first result")
    m.require(len(query.users) == 1, query, "the query is also read elsewhere")
    for index, name in ((1, "keys"), (2, "values")):
        cache = m.operand(anchor, index)
        own = m.is_op(cache, "getitem") and m.arguments(cache) == (write, index)
        m.require(own, cache, f"the {name} must be those of the cache that was just written")
    return WrittenAndRead(write, anchor)


def rewrite(rewriter: Rewriter, matched: WrittenAndRead) -> None:
    caches = [m.operand(matched.attention, index) for index in (1, 2)]
    arguments = (*m.arguments(matched.write), *m.arguments(matched.attention)[3:])
    fakes = (matched.attention.meta["val"], *(cache.meta["val"] for cache in caches))
    new = rewriter.call(
        ROPE_DECODE_ATTENTION.overload,
        arguments,
        replaces=(matched.attention, matched.write),
        value=fakes,
    )
    rewriter.replace(matched.attention, rewriter.item(new, 0))
    for index, cache in enumerate(caches, 1):
        rewriter.replace(cache, rewriter.item(new, index))


PASS = AnchorPass(NAME, Numerics.REORDERED, ("glmc.decode_attention",), match, rewrite)

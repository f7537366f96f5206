"""rope_decode_attention: every decode layer, bitwise; refuses another cache and other readers."""

from __future__ import annotations

import pytest
import torch
from torch.fx import Node

from glmc.ir.ops.attention import DECODE_ATTENTION, QKV_ROPE_CACHE
from glmc.passes import rope_decode_attention
from tests.backends.planned import Built
from tests.passes.merges import conditions, fires
from tests.support.thinned import thinned

PASS = rope_decode_attention.PASS
HEADS, KV_HEADS, DIM, BLOCK = 4, 2, 8, 16


# The pass reads no more of a dense model than of the mixture.
@pytest.mark.parametrize(
    ("family", "layers"),
    thinned([("glm", 2), ("glm4", 2), ("glm4_moe", 3)], [("glm", 2), ("glm4", 2)]),
)
def test_fires_in_every_decode_layer(family: str, layers: int) -> None:
    fires(PASS, family, "decode", layers)


def test_prefill_has_none() -> None:
    fires(PASS, "glm4", "prefill", 0)


@pytest.mark.parametrize(
    ("twist", "reason"),
    [
        ("observed", "the query is also read elsewhere"),
        ("stale keys", "the keys must be those of the cache that was just written"),
        ("swapped", "the values must be those of the cache that was just written"),
    ],
)
def test_refuses(twist: str, reason: str) -> None:
    built = Built()
    qkv = built.input("qkv", "tokens", (HEADS + 2 * KV_HEADS) * DIM)
    positions = built.input("positions", "tokens", dtype=torch.int64)
    slots = built.input("slot_mapping", "tokens", dtype=torch.int64)
    lengths = built.input("context_lengths", "tokens", dtype=torch.int32)
    tables = built.input("block_tables", "tokens", 4, dtype=torch.int32)
    caches = [built.cache(kind, KV_HEADS, BLOCK, DIM, 5) for kind in ("key", "value")]
    frequencies = built.weight("inverse_frequencies", 2)
    written = built.call(
        QKV_ROPE_CACHE.overload, qkv, None, None, positions, frequencies, slots, *caches,
        HEADS, KV_HEADS, DIM, False, 1.0, 0.0,
    )  # fmt: skip
    query, keys, values = (built.item(written, index) for index in range(3))
    read: dict[str, tuple[Node, Node]] = {
        "observed": (keys, values),
        "stale keys": (caches[0], values),
        "swapped": (keys, keys),
    }
    out = built.call(DECODE_ATTENTION.overload, query, *read[twist], tables, lengths, 0.3)
    program = built.program(out, query) if twist == "observed" else built.program(out)
    result = PASS.run(program)
    assert not result.matches
    assert conditions(result) == [reason]

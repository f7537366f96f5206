"""The CPU's rules for ``--deterministic``: kernels whose sums have an order of their own.

What only moves numbers, or adds two of them, is left to ``rules.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from glmc.backends.cpu.rules import gate_scratch, rotated, shared_by
from glmc.lowering import collectives, ordered_ranks, plain
from glmc.lowering.direct import INDEX, Direct, Scratch, experts_order, experts_rows, paged
from glmc.lowering.ordered_sums import whole_product
from glmc.lowering.target import Emitter, Op, Rule


def qkv_rope_cache(op: Op, emit: Emitter) -> None:
    rotated("ordered", op, emit)


def shared_expert(op: Op, emit: Emitter) -> None:
    shared_by("ordered", whole_product, op, emit)


def _experts_scratch(op: Op, emit: Emitter) -> Scratch:
    ids = op.tensor("ids")
    return {**experts_rows(op, emit), **experts_order(emit, ids.shape[0] * ids.dim(1))}


def _local_experts_scratch(op: Op, emit: Emitter) -> Scratch:
    rows = op.tensor("ids").shape[0] * op.tensor("ids").dim(1)
    return _experts_scratch(op, emit) | {"local_ids": emit.temporary("local_ids", (rows,), INDEX)}


_NORMED = ("x", "residual", "out", "total")
RULES: Mapping[str, Rule] = {
    **plain.EXACT,
    **collectives.RULES,
    "embedding": Direct("cpu.embedding", rows=("out",), flat=("token_ids",)),
    "select_rows": Direct("cpu.select_rows"),
    "linear": ordered_ranks.linear,
    "swiglu": Direct("ordered.swiglu", rows=("x", "out")),
    "silu_mul": Direct("ordered.silu_mul"),
    "rms_norm": Direct("ordered.rms_norm", rows=_NORMED),
    "add_rms_norm": Direct("ordered.add_rms_norm", ("out", "total"), _NORMED),
    "qkv_rope_cache": qkv_rope_cache,
    **paged("ordered"),
    "moe_gate": Direct(
        "ordered.moe_gate",
        ("weights", "ids"),
        rows=("x",),
        dropped=("top_k",),
        scratch_first=gate_scratch,
    ),
    "moe_ffn": Direct(
        "ordered.moe_ffn", rows=("x", "out"), scratch_first=_experts_scratch, host=True
    ),
    "local_moe_ffn": Direct(
        "ordered.local_moe_ffn", rows=("x", "out"), scratch_first=_local_experts_scratch, host=True
    ),
    "shared_expert": shared_expert,
}
OF_RANKS: Mapping[str, Rule] = {**RULES, **ordered_ranks.RULES}

"""The pipeline: every pass, in order. Nothing else runs unasked.

capture    one layer of each kind, instantiated                     glmc/capture
normal     canonical, clean                                         one spelling for everything
fuse       rms_norm, rope, qk_norm, attention, qkv_merge,
           moe_gate, moe_ffn, gate_up_merge, silu_mul, shared_expert,
           add_rms_norm
page       kv_cache                                                 packed tokens, paged cache
shard      shard                                                    one rank of several
phase      specialise                                               one graph each: prefill, decode
merge      all_reduce_add_rms_norm, norm_add_rms_norm,              where the target has one kernel
           linear_swiglu, moe_ffn_shared, rope_decode_attention     for both
lower      the target's table, then memory_plan                     glmc/lowering/lower.py

A compile may switch fusions off, reorder them and add passes of other distributions: selection.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from glmc.passes import (
    add_rms_norm,
    all_reduce_add_rms_norm,
    attention,
    canonical,
    clean,
    gate_up_merge,
    linear_swiglu,
    moe_ffn,
    moe_ffn_shared,
    moe_gate,
    norm_add_rms_norm,
    qk_norm,
    qkv_merge,
    rms_norm,
    rope,
    rope_decode_attention,
    shard,
    shared_expert,
    silu_mul,
    specialise,
)
from glmc.passes.base import Pass
from glmc.passes.kv_cache import NAME as NAME_OF_PAGING


@dataclass(frozen=True)
class Stage:
    """``passes`` in order, ``ops`` the ``glmc::`` ops that may exist after them (legal.py). A stage
    of ``step`` is one step that the runner makes for the options of the compile."""

    name: str
    ops: frozenset[str]
    passes: tuple[Pass, ...] = ()
    step: str | None = None

    @property
    def steps(self) -> tuple[str, ...]:
        return (self.step,) if self.step else tuple(each.name for each in self.passes)


_CAPTURED = frozenset({"marked_attention", "marked_experts"})
_NORMAL = _CAPTURED | {"linear", "embedding"}
_FUSED = _NORMAL | {
    *("rms_norm", "add_rms_norm", "rope", "norm_rope", "attention", "masked_attention"),
    *("moe_gate", "moe_ffn", "shared_expert", "swiglu", "silu_mul"),
}
_STATELESS = {"marked_attention", "attention", "masked_attention", "rope", "norm_rope"}
_PAGED = (_FUSED - _STATELESS) | {"join_qkv", "qkv_rope_cache", "prefill_attention"}
_PHASE = _PAGED | {"select_rows", "decode_attention"}
_MERGED = frozenset(
    {
        *("all_reduce_add_rms_norm", "norm_add_rms_norm", "linear_swiglu", "moe_ffn_shared"),
        "rope_decode_attention",
    }
)

NORMAL = Stage("normal", _NORMAL, (canonical.PASS, clean.PASS))
FUSE = Stage(
    "fuse",
    _FUSED,
    (
        rms_norm.PASS,
        rope.PASS,
        qk_norm.PASS,
        attention.PASS,
        qkv_merge.PASS,
        moe_gate.PASS,
        moe_ffn.PASS,
        gate_up_merge.PASS,
        silu_mul.PASS,
        shared_expert.PASS,
        add_rms_norm.PASS,
    ),
)
PAGE = Stage("page", _PAGED, step=NAME_OF_PAGING)
# Only where a model is dealt to several ranks. Its ops are there beside those of the stage before.
SHARD = Stage(
    "shard",
    frozenset({"local_embedding", "local_moe_ffn", "all_reduce", "all_gather", "reduce_scatter"}),
    step=shard.NAME,
)
PHASE = Stage("phase", _PHASE, step=specialise.NAME)
# Each pass makes the op of its name out of two neighbours. They run on a copy of a phase, and only
# those whose op the target has a rule for: to be rid of a merge is to be rid of that rule. Their
# ops are there beside those of the stage before.
MERGE = Stage(
    "merge",
    _MERGED,
    (
        all_reduce_add_rms_norm.PASS,
        norm_add_rms_norm.PASS,
        linear_swiglu.PASS,
        moe_ffn_shared.PASS,
        rope_decode_attention.PASS,
    ),
)
STAGES = (NORMAL, FUSE, PAGE, SHARD, PHASE, MERGE)
"""The stages of a compile, up to the lowering. A graph of ``torch.compile``, which brings its own
cache and sizes, leaves out PAGE, SHARD and PHASE."""

PASSES: tuple[Pass, ...] = (*NORMAL.passes, *FUSE.passes)
MERGES: tuple[Pass, ...] = MERGE.passes

# What no compile can do without, and why.
FIXED: Mapping[str, str] = MappingProxyType(
    {
        canonical.NAME: "every other pass reads its spelling",
        clean.NAME: "the other passes don't look through what it removes",
        NAME_OF_PAGING: "the runtime replays a graph over its cache",
        shard.NAME: "the ranks of --tensor-parallel run what it makes",
        specialise.NAME: "each phase has a plan of its own",
        "memory_plan": "a plan needs a place for each buffer",
    }
)
# Passes that find nothing, or less, where one of these was switched off.
NEEDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "qk_norm": ("rms_norm", "rope"),
        "qkv_merge": ("rms_norm", "rope", "attention"),
        "moe_ffn": ("moe_gate",),
        "shared_expert": ("moe_gate", "moe_ffn", "gate_up_merge"),
        "add_rms_norm": ("rms_norm",),
    }
)


def stage_of(name: str) -> Stage:
    """The stage of a step; an added pass fuses."""
    return next((stage for stage in STAGES if name in stage.steps), FUSE)

"""The page: every pass, in order. Nothing else runs unasked.

capture    one layer of each kind, instantiated                     glmc/capture
normal     canonical, clean                                         one spelling for everything
fuse       rms_norm, rope, qk_norm, attention, qkv_merge,
           moe_gate, moe_ffn, gate_up_merge, silu_mul, shared_expert,
           add_rms_norm
page       kv_cache                                                 packed tokens, paged cache
phase      specialise                                               one graph each: prefill, decode
merge      norm_add_rms_norm, linear_swiglu, moe_ffn_shared,        where the target has one kernel
           rope_decode_attention                                    for both
lower      the target's table, then memory_plan                     glmc/lowering/lower.py

A compile may switch fusions off, reorder them and add passes of other distributions: selection.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from glmc.passes import (
    add_rms_norm,
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
    shared_expert,
    silu_mul,
    specialise,
)
from glmc.passes.base import Pass
from glmc.passes.kv_cache import NAME as NAME_OF_PAGING

PASSES: tuple[Pass, ...] = (
    canonical.PASS,
    clean.PASS,
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
)

# Each makes the op of its name out of two neighbours. They run on a copy of a phase, and only those
# whose op the target has a rule for: to be rid of a merge is to be rid of that rule.
MERGES: tuple[Pass, ...] = (
    norm_add_rms_norm.PASS,
    linear_swiglu.PASS,
    moe_ffn_shared.PASS,
    rope_decode_attention.PASS,
)

_STAGES: Mapping[str, str] = MappingProxyType(
    {
        canonical.NAME: "normal",
        clean.NAME: "normal",
        NAME_OF_PAGING: "page",
        specialise.NAME: "phase",
    }
)

# What no compile can do without, and why.
FIXED: Mapping[str, str] = MappingProxyType(
    {
        canonical.NAME: "every other pass reads its spelling",
        clean.NAME: "the other passes don't look through what it removes",
        NAME_OF_PAGING: "the runtime replays a graph over its cache",
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


def stage_of(name: str) -> str:
    """The stage of a step, by the name that dumps and the history give it."""
    return _STAGES.get(name, "fuse")

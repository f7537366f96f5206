"""The one table of vendor functions that we call, per ABI profile.

Facts are from public code that calls the closed libraries, named in ``source`` by project:
vllm-kunlun (0.15.1; its 0.25.1 branch where said), vllm-kunlun-exp (a fork for torch 2.9) and
sglang-kunlun. A keyword list is what call sites show; ``P-C`` is taken to keep the list of ``P-A``
where no call site shows a difference. Nothing here was run on Kunlun hardware.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from glmc.backends.kunlun.abi import AbiProfile, Keyword, Variant, VendorFunction
from glmc.errors import AbiError
from glmc_runtime.kernels.vendor_functions import CLUSTERS, P_A, P_B, P_C
from glmc_runtime.kernels.vendor_functions import PROFILES as ALL

__all__ = ["ALL", "CLUSTERS", "PROFILES", "P_A", "P_B", "P_C", "VENDOR_FUNCTIONS", "abi_profile"]

WHEELS = {
    P_A: "torch 2.5.1, kunlun_ops of the 0.1.58 era",
    P_B: "torch 2.9, wheels of August 2026",
    P_C: "newer kunlun_ops, as sglang-kunlun and vllm-kunlun 0.25.1 call it",
}
_OPS = "vllm-kunlun: vllm_kunlun/ops/_custom_ops.py"
_EXPERTS = "vllm-kunlun: vllm_kunlun/ops/_kunlun_ops.py (fused_moe)"
_ATTENTION = "vllm-kunlun: vllm_kunlun/v1/attention/backends/kunlun_attn.py"
_ATTENTION_29 = "vllm-kunlun-exp: vllm_kunlun/v1/attention/backends/kunlun_attn.py"


def _required(names: str) -> tuple[Keyword, ...]:
    return tuple(Keyword(name) for name in names.split())


def _optional(**defaults: object) -> tuple[Keyword, ...]:
    return tuple(Keyword(name, False, default) for name, default in defaults.items())


def _same(keywords: tuple[Keyword, ...]) -> Mapping[str, Variant]:
    return MappingProxyType({profile: Variant(keywords) for profile in ALL})


def _prefill(alpha: bool) -> Variant:
    return Variant(
        _required("q k v out is_causal")
        + _optional(is_prefix_cache=False)
        + (_optional(alpha=1.0) if alpha else ())
        + _optional(
            block_table=None,
            context_qlen_lod_cpu=None,
            context_qlen_lod_xpu=None,
            context_kvlen_lod_cpu=None,
            context_kvlen_lod_xpu=None,
            alibi_slopes=None,
            softmax_lse=None,
            swa_left=-1,
            swa_right=-1,
            sink=None,
        )
    )


def _speculative(window: bool, more: tuple[Keyword, ...]) -> Variant:
    return Variant(
        _required(
            "out q k_cache v_cache context_lens_cpu context_lens_xpu batch_num qlen "
            "max_context_len head_num head_dim scale kv_head_num block_size max_num_blocks_per_seq"
        )
        + (_optional(max_window_size=-1) if window else ())
        + _required("block_tables")
        + more
    )


def _sigmoid_router(histogram: str) -> Variant:
    return Variant(
        _required(f"x topk_index norm_score {histogram} bias scale n_group topk_group"),
        MappingProxyType({"block_statistic": histogram}),
    )


_PAGED = Variant(
    _required("out x k_cache v_cache block_tables context_lens_cpu context_lens_xpu")
    + _optional(is_context=False, is_causal=True, vo_head_dim=-1)
)

_FUNCTIONS = (
    VendorFunction(
        "rmsnorm",
        _same(
            _required("x weight output")
            + _optional(
                eps=1e-5,
                interweave=False,
                store_output_before_norm=True,
                bias=None,
                residual_output=None,
                output_max=None,
            )
        ),
        mutates=("output",),
        limits=("x of two dimensions", "weight of the dtype of x"),
        source=(_OPS, "vllm-kunlun: vllm_kunlun/ops/layernorm.py"),
    ),
    VendorFunction(
        "add_rmsnorm",
        _same(
            _required("x y weight output")
            + _optional(
                eps=1e-5,
                interweaved=False,
                store_output_before_norm=True,
                bias=None,
                smooth=None,
                residual_output=None,
                output_max=None,
            )
        ),
        mutates=("output", "residual_output"),
        aliases=(("output", "x"), ("residual_output", "y")),
        limits=("x of two dimensions", "weight of the dtype of x"),
        source=(_OPS, "vllm-kunlun: vllm_kunlun/ops/layernorm.py"),
    ),
    VendorFunction(
        "swiglu",
        _same(_required("x y")),
        mutates=("y",),
        limits=("bytes of a row of y are a multiple of 16",),
        source=(_OPS,),
    ),
    VendorFunction(
        "rotary_embedding",
        _same(_required("positions query key head_size cos_sin_cache is_neox")),
        mutates=("query", "key"),
        limits=("rotary dimension even and at most the head size", "table of the dtype of query"),
        source=("vllm-kunlun: vllm_kunlun/ops/rotary_embedding/kunlun_rope.py",),
    ),
    VendorFunction(
        "reshape_and_cache_flash",
        _same(
            _required("key value key_cache value_cache slot_mapping") + _optional(BLHD_LAYOUT=False)
        ),
        mutates=("key_cache", "value_cache"),
        limits=("head sizes of the cache", "no negative slot: whether it is skipped is unknown"),
        source=(_ATTENTION, "vllm-kunlun: vllm_kunlun/ops/paged_attn.py"),
    ),
    VendorFunction(
        "prefill_attention",
        MappingProxyType({P_A: _prefill(True), P_B: _prefill(False), P_C: _prefill(True)}),
        mutates=("out", "softmax_lse"),
        host=("context_qlen_lod_cpu", "context_kvlen_lod_cpu"),
        limits=("without alpha (P-B) the scale is head_dim ** -0.5",),
        source=(_ATTENTION, _ATTENTION_29),
    ),
    VendorFunction(
        "speculative_attention",
        MappingProxyType(
            {
                P_A: _speculative(True, _optional(sink=None)),
                P_B: _speculative(False, ()),
                P_C: _speculative(False, _optional(sink=None, qlod_cpu=None, qlod_xpu=None)),
            }
        ),
        mutates=("out",),
        host=("context_lens_cpu", "qlod_cpu"),
        limits=("a batch of 1024 fails (vllm-kunlun issue 477); refused above 512",),
        source=(_ATTENTION, _ATTENTION_29, "vllm-kunlun issue 477"),
    ),
    VendorFunction(
        "paged_attention",
        MappingProxyType({P_A: _PAGED, P_B: _PAGED}),
        mutates=("out",),
        host=("context_lens_cpu",),
        limits=("no scale: head_dim ** -0.5", "refused above a batch of 512, as its sibling"),
        source=(_EXPERTS.replace(" (fused_moe)", ""), _ATTENTION_29),
    ),
    VendorFunction(
        "matmul",
        _same(
            _required("x w out")
            + _optional(
                x_trans=False,
                w_trans=True,
                alpha=1,
                beta=0,
                bias=None,
                x_max=None,
                w_max=None,
                x_pc_max=None,
                w_pc_max=None,
            )
        ),
        mutates=("out",),
        limits=("bias float32", "float16 with one row and 248320 columns is wrong (issue 387)"),
        source=(_OPS, "vllm-kunlun 0.25.1 (unquantised linear)", "vllm-kunlun issue 387"),
    ),
    VendorFunction(
        "moe_sigmoid_group_topk_norm",
        MappingProxyType(
            {
                P_A: _sigmoid_router("block_static"),
                P_B: _sigmoid_router("block_static"),
                P_C: _sigmoid_router("block_statistic"),
            }
        ),
        mutates=("topk_index", "norm_score", "block_statistic"),
        limits=("at most 512 experts", "always renormalises, without an eps", "histogram zeroed"),
        source=(_OPS, "sglang-kunlun: sglang_kunlun/hooks/layers/moe/topk.py"),
    ),
    VendorFunction(
        "gen_block_statistic",
        _same(_required("topk_ids block_statistic")),
        mutates=("block_statistic",),
        limits=("histogram zeroed", "ids int32"),
        source=(_EXPERTS,),
    ),
    VendorFunction(
        "moe_pre_sorted",
        _same(
            _required(
                "x topk_index block_statistic moe_expand moe_index expert_m sorted_tokens_num_lod"
            )
            + _optional(index_have_neg=False)
        ),
        mutates=("moe_expand", "moe_index", "expert_m", "sorted_tokens_num_lod"),
        limits=("expert_m and sorted_tokens_num_lod zeroed",),
        source=(_EXPERTS,),
    ),
    VendorFunction(
        "moe_fc",
        _same(
            _required("x weight sorted_tokens_num_lod sorted_tokens_idx moe_topk y")
            + _optional(
                act=None,
                x_perchannel_max=None,
                w_perchannel_max=None,
                topk_ids=None,
                topk_w=None,
                bias=None,
                tgemm_type=None,
                tweight_type=None,
                scale_n=0,
                scale_k=0,
                use_pack_int4=False,
                sort_mode=True,
            )
        ),
        mutates=("y",),
        limits=("act stays None: SWISH_GLU is wrong from 1024 tokens",),
        source=(_EXPERTS, "vllm-kunlun-exp: vllm_kunlun/ops/_kunlun_ops.py"),
    ),
    VendorFunction(
        "moe_post",
        _same(_required("x moe_index normed_scale dequant_scale y")),
        mutates=("y",),
        limits=("both scales float32",),
        source=(_EXPERTS,),
    ),
)

VENDOR_FUNCTIONS: Mapping[str, VendorFunction] = MappingProxyType(
    {function.name: function for function in _FUNCTIONS}
)
PROFILES: Mapping[str, AbiProfile] = MappingProxyType(
    {name: AbiProfile(name, WHEELS[name], VENDOR_FUNCTIONS) for name in ALL}
)


def abi_profile(name: str | None) -> AbiProfile:
    """The profile of a name; raises :class:`AbiError` for none or an unknown one."""
    profile = PROFILES.get(name or "")
    if profile is None:
        raise AbiError(
            "the xpu target needs an ABI profile" if name is None else "unknown ABI profile",
            expected="; ".join(f"{known} ({wheels})" for known, wheels in WHEELS.items()),
            found=str(name),
            remedy="choose the profile of the wheels on the target machine",
        )
    return profile

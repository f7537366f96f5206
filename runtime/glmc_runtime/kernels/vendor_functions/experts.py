"""Rows of the vendor's router and experts."""

from __future__ import annotations

from glmc_runtime.kernels.schema import (
    ArgumentSchema,
    flag,
    integer,
    nothing,
    number,
    tensor,
    written,
)
from glmc_runtime.kernels.vendor_functions.row import (
    P_A,
    P_B,
    P_C,
    Arguments,
    VendorFunction,
    keywords,
    optional,
    unused,
)

CLUSTERS = 12
"""Rows of the expert histogram: one per cluster of the chip."""
MOST_EXPERTS = 512
"""Of the sigmoid router: above, it writes nothing and reports nothing."""
NEGATIVE_IDS = (P_C,)
"""Profiles with whose wheels somebody is known to pass ids of -1. All have the keyword."""
_OPS = "vllm-kunlun: vllm_kunlun/ops/_custom_ops.py"
_EXPERTS = "vllm-kunlun: vllm_kunlun/ops/_kunlun_ops.py (fused_moe)"


def _zeroed(
    name: str, shape: str, leaves: str, below: str | None = None, of: str | None = None
) -> ArgumentSchema:
    """Integers that a kernel adds to: they are zeros before."""
    return written(
        name, shape, "int32", reads=True, holds="zeros", leaves=leaves, below=below, of=of
    )


def _histogram(ids: str) -> ArgumentSchema:
    return _zeroed("block_statistic", f"{CLUSTERS} experts", "block_statistic", of=ids)


def _has_foreign_experts(given: Arguments) -> bool:
    """Rows of experts with id -1 stay as they are."""
    return bool(given.get("index_have_neg"))


def _fills_less_than_all_rows(given: Arguments) -> bool:
    """A fused activation fills half of the columns; rows after the last expert's are left."""
    ends = given["sorted_tokens_num_lod"]
    return given.get("act") is not None or int(ends[-1]) != given["x"].shape[0]


EXPERTS = (
    VendorFunction(
        "moe_sigmoid_group_topk_norm",
        keywords(
            tensor("x", "tokens experts", "float32"),
            written("topk_index", "tokens top_k", "int32", below="experts"),
            written("norm_score", "tokens top_k", "float32"),
            optional(
                _histogram("topk_index"),
                spelling=((P_A, "block_static"), (P_B, "block_static")),
            ),
            tensor("bias", "experts", "float32"),
            number("scale"),
            integer("n_group", choices=(1,)),
            integer("topk_group", choices=(1,)),
        ),
        relations=("top_k <= experts", f"experts <= {MOST_EXPERTS}"),
        limits=(
            f"at most {MOST_EXPERTS} experts",
            "always renormalises, without an eps",
            "histogram zeroed",
        ),
        source=(_OPS, "sglang-kunlun: sglang_kunlun/hooks/layers/moe/topk.py"),
    ),
    VendorFunction(
        "gen_block_statistic",
        keywords(
            tensor("topk_ids", "tokens top_k", "int32", below="experts", negative=True),
            _histogram("topk_ids"),
        ),
        limits=("histogram zeroed", "ids int32", "ids of -1 are not counted"),
        source=(_EXPERTS,),
    ),
    VendorFunction(
        "moe_pre_sorted",
        keywords(
            tensor("x", "tokens hidden"),
            tensor(
                "topk_index",
                "tokens top_k",
                "int32",
                below="experts",
                negative="index_have_neg",
            ),
            tensor(
                "block_statistic",
                f"{CLUSTERS} experts",
                "int32",
                holds="block_statistic",
                of="topk_index",
            ),
            written("moe_expand", "tokens*top_k hidden", like="x"),
            written(
                "moe_index", "tokens*top_k", "int32", leaves="sorted_index", below="tokens*top_k"
            ),
            _zeroed("expert_m", "experts", "expert_counts"),
            _zeroed("sorted_tokens_num_lod", "experts+1", "expert_lod", "tokens*top_k+1"),
            optional(flag("index_have_neg"), False),
        ),
        partly_written=_has_foreign_experts,
        limits=(
            "expert_m and sorted_tokens_num_lod zeroed",
            "rows of ids of -1 stay as they are, here and in moe_fc: zero them, and their scores",
            f"index_have_neg=True has public callers with the wheels of {P_C} alone",
        ),
        source=(_EXPERTS,),
    ),
    VendorFunction(
        "moe_fc",
        keywords(
            tensor("x", "tokens*moe_topk k"),
            tensor("weight", "experts n k", like="x"),
            tensor(
                "sorted_tokens_num_lod",
                "experts+1",
                "int32",
                holds="expert_lod",
                below="tokens*moe_topk+1",
            ),
            tensor(
                "sorted_tokens_idx",
                "tokens*moe_topk",
                "int32",
                holds="sorted_index",
                below="tokens*moe_topk",
            ),
            integer("moe_topk", 1),
            written("y", "tokens moe_topk n", like="x"),
            optional(nothing("act"), None),
            *unused(
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
            ),
            optional(flag("sort_mode", only=True, required=False), True),
        ),
        partly_written=_fills_less_than_all_rows,
        limits=("act stays None: SWISH_GLU is wrong from 1024 tokens",),
        source=(_EXPERTS, "vllm-kunlun-exp: vllm_kunlun/ops/_kunlun_ops.py"),
    ),
    VendorFunction(
        "moe_post",
        keywords(
            tensor("x", "tokens top_k hidden"),
            tensor(
                "moe_index", "tokens top_k", "int32", holds="sorted_index", below="tokens*top_k"
            ),
            tensor("normed_scale", "tokens top_k", "float32"),
            tensor("dequant_scale", "tokens top_k", "float32"),
            written("y", "tokens hidden", like="x"),
        ),
        limits=("both scales float32",),
        source=(_EXPERTS,),
    ),
)

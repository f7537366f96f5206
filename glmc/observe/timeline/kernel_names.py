"""Which kind of op a kernel is, by its name: a table, the first row that matches counts.

Names change between releases of their libraries; a kernel that no row knows is ``other`` and is
shown by its name. ``source`` says where the name was seen or is documented.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LINEAR = "linear"
ATTENTION = "attention"
EXPERTS = "moe experts"
ROUTER = "router"
NORM = "norm"
ACTIVATION = "activation"
ROPE_CACHE = "rope and cache"
EMBEDDING = "embedding"
SAMPLING = "sampling"
COPY = "copy"
COLLECTIVE = "collective"
OTHER = "other"

OP_CLASSES = (
    LINEAR,
    ATTENTION,
    EXPERTS,
    ROUTER,
    NORM,
    ACTIVATION,
    ROPE_CACHE,
    EMBEDDING,
    SAMPLING,
    COPY,
    COLLECTIVE,
    OTHER,
)


@dataclass(frozen=True)
class Row:
    """``pattern`` is searched in a name, in any case."""

    pattern: re.Pattern[str]
    op_class: str
    source: str


def _rows(*rows: tuple[str, str, str]) -> tuple[Row, ...]:
    return tuple(Row(re.compile(text, re.IGNORECASE), kind, source) for text, kind, source in rows)


_VLLM = "vLLM 0.25.0, trace of an H200"
_VLLM_SOURCE = "vLLM, csrc"
_SGLANG = "SGLang 0.5, sgl-kernel and Triton kernels"
_INDUCTOR = "names of Inductor: triton_<kind>_fused_<ops>"
_KUNLUN = "vLLM-Kunlun, profiling guide"
_GLMC = "runtime/glmc_runtime/kernels/cuda"
_NCCL = "NCCL"
_CUBLAS = "cuBLAS and cuBLASLt"
_CUTLASS = "CUTLASS"
_FLASH = "FlashAttention 2 and 3"
_FLASHINFER = "FlashInfer"
_TORCH = "ATen"

KERNELS = _rows(
    # Collectives come first: fused ones also name the norm after them.
    (r"nccl(Dev)?Kernel|^nccl:", COLLECTIVE, _NCCL),
    (r"all_?reduce|all_?gather|reduce_?scatter|all_?to_?all", COLLECTIVE, _NCCL),
    (r"cross_device_reduce", COLLECTIVE, _VLLM_SOURCE),
    (r"kl3_\w*(reduce|gather|scatter|broadcast)|bkcl", COLLECTIVE, _KUNLUN),
    # Attention before CUTLASS, whose kernels it is written in.
    (r"flash::|flash_(fwd|bwd|attn)|FlashAttn|pytorch_flash", ATTENTION, _FLASH),
    (r"Batch(Decode|Prefill)With|SinglePrefillWith|fmha|mha_|\bmla_", ATTENTION, _FLASHINFER),
    (r"(decode|prefill|masked|unified|paged)_?attention|merge_attn_states", ATTENTION, _GLMC),
    (r"^_fwd_(grouped_)?kernel|\battention", ATTENTION, _SGLANG),
    (r"rope_decode_attention_kernel|^reduce_kernel$|^gather_kernel$", ATTENTION, _GLMC),
    # The router before experts and softmax.
    (r"grouped_topk|topk_gating|topk_?softmax|moe_fused_gate|topk_sigmoid", ROUTER, _VLLM),
    (r"^(gate_rows|choose)_kernel|router", ROUTER, _GLMC),
    (r"fused_moe_kernel|moe_align_block|count_and_sort_expert|moe_sum", EXPERTS, _VLLM),
    (r"^(few|sorted|experts)_(up|down)_kernel", EXPERTS, _GLMC),
    (r"^(count|place|combine|local_ids)_kernel", EXPERTS, _GLMC),
    (r"\bmoe|expert|group(ed)?_(gemm|mm)|permute_kernel", EXPERTS, _SGLANG),
    # Rope and cache, norms, activations: by word, since fused names list their ops.
    (r"reshape_and_cache|store_kv|set_kv_buffer|slot_mapping|copy_blocks", ROPE_CACHE, _VLLM),
    (r"qkv_rope_cache_kernel|^rope_kernel", ROPE_CACHE, _GLMC),
    (r"rotary|(^|_)rope|(^|_)(cos|sin)(_|$)", ROPE_CACHE, _INDUCTOR),
    (r"rms_?norm|layer_?norm|(mean|pow)\w*_rsqrt|rsqrt", NORM, _INDUCTOR),
    (r"act_and_mul|silu|swiglu|gelu|sigmoid_mul", ACTIVATION, _VLLM),
    (r"(^|_)embedding", EMBEDDING, _INDUCTOR),
    (r"ArgMax|argmax|sampl|multinomial|penalt|^greedy_kernel|radix_?sort", SAMPLING, _TORCH),
    (r"top_?[kp]_(mask|renorm)|OnlineSoftmax", SAMPLING, _FLASHINFER),
    # Products.
    (r"nvjet|cublas|splitKreduce|gemv|dot_kernel|reduce_1Block_kernel", LINEAR, _CUBLAS),
    (r"cutlass|gemm|xmma|wgmma", LINEAR, _CUTLASS),
    (r"^(gemv|skinny)_kernel|deep_gemm|_matmul|(^|_)mm(_|$)|[._]linear(_|$)", LINEAR, _GLMC),
    (r"xblas\w*::|fc_cdnn|fc_fusion", LINEAR, _KUNLUN),
    # What only moves or fills.
    (r"^Memcpy|^Memset|^memcpy\d|^\[CUDA mem", COPY, _VLLM),
    (r"direct_copy_kernel|FillFunctor|CatArrayBatchedCopy|::copy_", COPY, _TORCH),
    (r"::constant<|memset|memcpy", COPY, _KUNLUN),
)

OPS = _rows(
    (r"all_?reduce|all_?gather|reduce_?scatter|c10d::|_c10d", COLLECTIVE, "torch.distributed"),
    (r"moe_gate|topk_router|grouped_topk", ROUTER, "glmc/ir/ops/moe.py"),
    (r"moe_ffn|marked_experts", EXPERTS, "glmc/ir/ops/moe.py"),
    (r"fused_moe|moe_forward|_grouped_mm", EXPERTS, _TORCH),
    (r"attention|_flash_attn|mha_varlen|gather_cache", ATTENTION, "glmc/ir/ops/attention.py"),
    (r"rms_norm|layer_norm", NORM, "glmc/ir/ops/norms.py"),
    (r"rope|qkv_rope_cache|rotary|reshape_and_cache", ROPE_CACHE, "glmc/ir/ops/rotary.py"),
    (r"linear_swiglu", LINEAR, "glmc/ir/ops/linear.py"),
    (r"swiglu|silu|gelu|act_and_mul", ACTIVATION, "glmc/ir/ops/linear.py"),
    (r"embedding", EMBEDDING, "glmc/ir/ops/linear.py"),
    (r"argmax|multinomial|sampl|greedy", SAMPLING, _TORCH),
    (r"linear|::(add)?mm$|::bmm$|matmul|addmv|::mv$", LINEAR, _TORCH),
    (r"::copy_$|_to_copy|::fill_$|::zero_$|::cat$|::clone$|::contiguous$", COPY, _TORCH),
)

MODULES = _rows(
    (r"(?<!shared_)experts(\b|_|\.)|NaiveMoe|FusedMoE", EXPERTS, "transformers, Glm4Moe"),
    (r"router|\.gate$|Topk", ROUTER, "transformers, Glm4Moe"),
    (r"rotary", ROPE_CACHE, "transformers, Glm4Moe"),
    (r"norm", NORM, "transformers, Glm4Moe"),
    (r"embed_tokens|Embedding", EMBEDDING, "transformers, Glm4Moe"),
    (r"attn|attention", ATTENTION, "transformers, Glm4Moe"),
    (r"mlp", ACTIVATION, "transformers, Glm4Moe"),
)

"""What SGLang's options can ask for and compiled plans lack, refused by name at the start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from glmc_engines.core.errors import NoArtifactError, UnsupportedError
from glmc_runtime.format.manifest import Manifest


@dataclass(frozen=True)
class Limit:
    """A server argument that asks for ``feature`` unless it is one of ``off``; None, False, 0 and
    empty values ask for nothing. An argument that a release does not have is passed over."""

    option: str
    feature: str
    off: tuple[object, ...] = ()

    @property
    def flag(self) -> str:
        return "--" + self.option.replace("_", "-")

    def asked(self, value: object) -> bool:
        return bool(value) and value not in self.off


LIMITS = (
    # Other weights than those of the artifact, or other places for them.
    Limit("enable_lora", "LoRA adapters"),
    Limit("lora_paths", "LoRA adapters"),
    Limit("quantization", "quantised weights"),
    Limit("modelopt_quant", "quantised weights"),
    Limit("torchao_config", "quantised weights"),
    Limit("rl_quant_profile", "quantised weights"),
    Limit("quantization_param_path", "a quantised KV cache"),
    Limit("kv_cache_dtype", "a KV cache of another dtype than the model", ("auto",)),
    Limit("load_format", "weights from elsewhere", ("auto", "safetensors")),
    Limit("custom_weight_loader", "weights from elsewhere"),
    Limit("startup_weight_load_mode", "weights that load beside the start", ("serial",)),
    Limit("weight_cache_mode", "a cache of weights", ("off",)),
    Limit("json_model_override_args", "another model than the checkpoint's", ("{}",)),
    Limit("model_impl", "another implementation of the model", ("auto", "sglang")),
    Limit("cpu_offload_gb", "weights in host memory"),
    Limit("offload_group_size", "weights in host memory", (-1,)),
    Limit("enable_memory_saver", "memory that is given back and taken again"),
    Limit("enable_weights_cpu_backup", "memory that is given back and taken again"),
    Limit("enable_paged_experts", "experts in host memory"),
    Limit("kt_weight_path", "experts in host memory"),
    # Steps of other kinds.
    Limit("speculative_algorithm", "speculative decoding"),
    Limit("dllm_algorithm", "diffusion decoding"),
    Limit("is_embedding", "embeddings"),
    Limit("enable_mis", "scoring of several items in one prompt"),
    Limit("prefill_only_disable_kv_cache", "prefill without a KV cache"),
    Limit("encoder_only", "vision"),
    Limit("language_only", "vision"),
    Limit("enable_multimodal", "vision"),
    Limit("enable_two_batch_overlap", "two batches at once"),
    Limit("enable_single_batch_overlap", "overlap within a batch"),
    Limit("enable_pdmux", "prefill beside decode"),
    Limit("disaggregation_mode", "prefill and decode on different servers", ("null",)),
    # Other ways to deal a model to ranks than one tensor-parallel group.
    Limit("pp_size", "pipeline parallelism", (1,)),
    Limit("dp_size", "data parallelism", (1,)),
    Limit("enable_dp_attention", "data-parallel attention"),
    Limit("enable_dp_lm_head", "a data-parallel output head"),
    Limit("attn_cp_size", "context parallelism", (1,)),
    Limit("dcp_size", "context parallelism", (1,)),
    Limit("enable_prefill_cp", "context parallelism"),
    Limit("enable_layernorm_sp", "sequence parallelism"),
    Limit("dwdp_size", "weights that ranks fetch from each other", (1,)),
    Limit("moe_a2a_backend", "experts by all-to-all", ("none",)),
    Limit("enable_eplb", "experts that move between ranks"),
    Limit("ep_num_redundant_experts", "redundant experts"),
    Limit("elastic_ep_backend", "ranks that come and go"),
    # Other memory of keys and values than a flat pool.
    Limit("enable_hierarchical_cache", "a KV cache in several memories"),
    Limit("enable_hisparse", "a sparse KV cache"),
    Limit("enable_lmcache", "a KV cache in several memories"),
    Limit("enable_flexkv", "a KV cache in several memories"),
    Limit("enable_unified_cache_external_linker", "a KV cache in several memories"),
    Limit("enable_page_major_kv_layout", "a KV cache of another layout"),
    Limit("enable_kv_cache_sharding", "a KV cache that ranks share"),
    # Answers with what is inside of a step.
    Limit("enable_return_routed_experts", "the experts of each token"),
    Limit("enable_return_indexer_topk", "the chosen tokens of sparse attention"),
    Limit("enable_return_aux_hidden_states", "hidden states of inner layers"),
    Limit("aux_hidden_state_capture", "hidden states of inner layers"),
    Limit("expert_distribution_recorder_mode", "counts of experts"),
    Limit("debug_tensor_dump_output_folder", "dumps of inner tensors"),
    Limit("forward_hooks", "hooks on modules"),
    Limit("msprobe_dump_config", "dumps of inner tensors"),
    Limit("enable_layerwise_nvtx_marker", "marks of layers in a timeline"),
    Limit("kv_canary", "canaries in the KV cache", ("none",)),
    # Other numbers than the plan's.
    Limit("enable_fp32_lm_head", "an output head in float32"),
    Limit("enable_torch_compile", "torch.compile"),
    Limit("rl_on_policy_target", "the numbers of a training framework"),
    Limit("enable_quant_communications", "quantised collectives"),
)


_CACHE_DTYPES = {"bf16": torch.bfloat16, "bfloat16": torch.bfloat16}
"""Values of ``--kv-cache-dtype`` that are the dtype of some models."""


def refuse_options(option: Callable[[str], Any], dtype: torch.dtype) -> None:
    """Raise :class:`UnsupportedError` for the first option that asks for what plans lack;
    ``option`` gives a server argument by its name, ``dtype`` is the model's."""
    for limit in LIMITS:
        value = option(limit.option)
        if limit.option == "kv_cache_dtype" and _CACHE_DTYPES.get(value) == dtype:
            continue
        if limit.asked(value):
            raise UnsupportedError(
                f"compiled plans do not have {limit.feature}",
                place=f"{limit.flag} of SGLang",
                found=str(value),
                remedy=f"start the server without {limit.flag}, or without the plug-in: "
                "SGLANG_PLUGINS names those to load",
            )


def refuse_manifest(manifest: Manifest, option: Callable[[str], Any]) -> None:
    """Raise :class:`NoArtifactError` for an artifact that places experts in another way, and
    :class:`UnsupportedError` for bits that were asked for and are not promised."""
    ep_size = option("ep_size") or 1
    if (ep_size > 1) != manifest.ranks.expert_parallel:
        raise NoArtifactError(
            "the artifact places experts on its ranks in another way than SGLang asks for",
            place=manifest.model.name,
            expected=f"--ep-size {ep_size}",
            found="whole experts" if manifest.ranks.expert_parallel else "a part of each expert",
            remedy="compile with --expert-parallel or without, as the server has --ep-size or not",
        )
    if option("enable_deterministic_inference") and manifest.deterministic is None:
        raise UnsupportedError(
            "the bits of this artifact depend on the batch",
            place="--enable-deterministic-inference of SGLang",
            remedy="compile with --deterministic, or start the server without the option",
        )

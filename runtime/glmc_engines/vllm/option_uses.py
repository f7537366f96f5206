"""Options of vLLM that the adapter reads by their names in texts (:mod:`.limits`), as data.

``python -m glmc_engines.surface`` reads them; nothing else does.
"""

from __future__ import annotations

from glmc_engines.surface.uses import Use

SURFACE: tuple[Use, ...] = (
    Use("vllm.envs.VLLM_USE_MODELSCOPE", "attribute", why="where checkpoints are"),
    Use("vllm.config.LoadConfig.download_dir", "attribute", why="where checkpoints are"),
    Use("vllm.config.VllmConfig.lora_config", "attribute", why="an option"),
    Use("vllm.config.VllmConfig.speculative_config", "attribute", why="an option"),
    Use("vllm.config.VllmConfig.kv_transfer_config", "attribute", why="an option"),
    Use(
        "vllm.config.VllmConfig.weight_transfer_config", "attribute", why="an option", optional=True
    ),
    Use("vllm.config.ModelConfig.quantization", "attribute", why="an option"),
    Use("vllm.config.ModelConfig.hf_config_path", "attribute", why="an option"),
    Use("vllm.config.ModelConfig.hf_overrides", "attribute", why="an option"),
    Use("vllm.config.ModelConfig.runner_type", "attribute", why="an option"),
    Use("vllm.config.ModelConfig.enable_prompt_embeds", "attribute", why="an option"),
    Use("vllm.config.ModelConfig.enforce_eager", "attribute", why="an option"),
    Use("vllm.config.VllmConfig.optimization_level", "attribute", why="an option", optional=True),
    Use("vllm.config.ParallelConfig.enable_dbo", "attribute", why="an option"),
    Use("vllm.config.ParallelConfig.ubatch_size", "attribute", why="an option", optional=True),
    Use("vllm.config.ParallelConfig.enable_eplb", "attribute", why="an option"),
    Use("vllm.config.ParallelConfig.enable_expert_parallel", "attribute", why="an option"),
    Use("vllm.config.ParallelConfig.pipeline_parallel_size", "attribute", why="an option"),
    Use("vllm.config.ParallelConfig.data_parallel_size", "attribute", why="an option"),
    Use("vllm.config.ParallelConfig.decode_context_parallel_size", "attribute", why="an option"),
    Use(
        "vllm.config.ParallelConfig.prefill_context_parallel_size",
        "attribute",
        why="an option",
        optional=True,
    ),
    Use(
        "vllm.config.offload.UVAOffloadConfig.cpu_offload_gb",
        "attribute",
        why="an option",
        either="cpu_offload",
    ),
    Use(
        "vllm.config.CacheConfig.cpu_offload_gb",
        "attribute",
        why="the same, of older releases",
        either="cpu_offload",
    ),
    Use(
        "vllm.config.offload.OffloadConfig.offload_backend",
        "attribute",
        why="an option",
        optional=True,
    ),
    Use(
        "vllm.config.offload.PrefetchOffloadConfig.offload_group_size",
        "attribute",
        why="an option",
        optional=True,
    ),
    Use(
        "vllm.config.aux_output.AuxOutputConfig.enable_return_routed_experts",
        "attribute",
        why="an option",
        optional=True,
    ),
    Use(
        "vllm.config.ModelConfig.enable_return_routed_experts",
        "attribute",
        why="the same, of older releases",
        optional=True,
    ),
)

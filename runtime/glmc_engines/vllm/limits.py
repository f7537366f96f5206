"""What vLLM's options ask for and compiled plans do not have, by name; and what is set for them.

It is looked at in the process that reads the options, before any other is started, and again where
the model is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from glmc_engines.core.errors import EngineVersionError, NoArtifactError, UnsupportedError
from glmc_engines.core.header import Header
from glmc_engines.core.options import Options
from glmc_engines.vllm import compat
from glmc_engines.vllm.artifact import artifact_of

_LOG = compat.logger()


def unsupported(config: Any) -> list[UnsupportedError]:
    """The options of a ``VllmConfig`` that compiled plans do not have, as errors."""
    return [
        UnsupportedError(
            f"compiled plans have no {what}",
            place=f"vLLM, {option}",
            expected="unset",
            found=str(value),
        )
        for what, option, value in _asked(config)
    ]


def _asked(config: Any) -> Iterator[tuple[str, str, object]]:
    """What is asked for: in words, the option, its value."""
    model, parallel, cache = config.model_config, config.parallel_config, config.cache_config
    if getattr(config, "lora_config", None) is not None:
        yield "LoRA adapters", "--enable-lora", True
    if getattr(config, "speculative_config", None) is not None:
        yield "speculative decoding", "--speculative-config", config.speculative_config.method
    if getattr(config, "kv_transfer_config", None) is not None:
        yield "hooks for KV connectors", "--kv-transfer-config", config.kv_transfer_config
    if overrides := _overrides(model):
        yield "overrides of the checkpoint's config", "--hf-overrides", overrides
    if model.quantization is not None:
        yield "quantised weights", "--quantization", model.quantization
    if cache.cache_dtype != "auto" and compat.cache_dtype(config) != model.dtype:
        yield "KV cache of another dtype than the model", "--kv-cache-dtype", cache.cache_dtype
    if getattr(model, "runner_type", "generate") != "generate":
        yield "pooling or other tasks than text generation", "--runner", model.runner_type
    for what, option, holder, name, usual in (
        ("pipeline stages", "--pipeline-parallel-size", parallel, "pipeline_parallel_size", 1),
        ("data parallel ranks", "--data-parallel-size", parallel, "data_parallel_size", 1),
        (
            "decode context parallelism",
            "--decode-context-parallel-size",
            parallel,
            "decode_context_parallel_size",
            1,
        ),
        (
            "prefill context parallelism",
            "--prefill-context-parallel-size",
            parallel,
            "prefill_context_parallel_size",
            1,
        ),
        ("micro-batches", "--enable-dbo", parallel, "enable_dbo", False),
        ("expert load balancing", "--enable-eplb", parallel, "enable_eplb", False),
        ("prompt embeddings", "--enable-prompt-embeds", model, "enable_prompt_embeds", False),
        (
            "record of routed experts",
            "--enable-return-routed-experts",
            model,
            "enable_return_routed_experts",
            False,
        ),
    ):
        value = getattr(holder, name, usual)
        if value != usual:
            yield what, option, value


def _overrides(model: Any) -> str:
    """The fields of config.json that an option changes: a plan is of the file. How long sequences
    may be is for the limits of the artifact to say."""
    found = getattr(model, "hf_overrides", None) or {}
    if callable(found):
        return "a function"
    return ", ".join(sorted(set(found) - {"max_position_embeddings"}))


def check_experts(config: Any, header: Header) -> None:
    """Raise :class:`NoArtifactError` where experts are dealt out in another way than the engine's
    option says."""
    asked = bool(getattr(config.parallel_config, "enable_expert_parallel", False))
    has = header.manifest.ranks.expert_parallel
    if asked and not has and header.manifest.ranks.count > 1:
        raise NoArtifactError(
            "the artifact has a part of each expert on each rank",
            place=str(header.path),
            expected="whole experts, for --enable-expert-parallel",
            found="compiled without --expert-parallel",
            remedy="compile with --expert-parallel, or start vLLM without --enable-expert-parallel",
        )


def prepare(config: Any, *checks: Callable[[], None]) -> bool:
    """Make a ``VllmConfig`` fit for compiled plans, before its engine is built; whether they serve.
    Further ``checks`` raise what else is in their way.

    Raises the error of what can't be served where the options require that; otherwise the model is
    left to vLLM, and the log says so.
    """
    options = Options.from_environment()
    try:
        with compat.names_of_vllm():
            for error in unsupported(config):
                raise error
            found = artifact_of(config, options)
            check_experts(config, found.header)
        for check in checks:
            check()
    except (UnsupportedError, NoArtifactError, EngineVersionError) as error:
        if options.require or options.artifact is not None:
            raise
        _LOG.warning("glmc leaves %s to vLLM: %s", config.model_config.model, error)
        return False
    _limit(config, found.header)
    compat.switch_graphs_off(config)
    return True


def _limit(config: Any, header: Header) -> None:
    """Steps of the scheduler no larger than those of the artifact. Without chunks a longer prompt
    would wait for ever."""
    scheduler, longest = config.scheduler_config, config.model_config.max_model_len
    if not compat.prefills_in_chunks(scheduler) and longest > header.tokens:
        raise UnsupportedError(
            "prompts of the longest sequence are no step of the artifact, and come in no chunks",
            place="vLLM, --no-enable-chunked-prefill",
            expected=f"chunks, or --max-model-len {header.tokens}",
            found=f"sequences of {longest} tokens",
            remedy="start vLLM with --enable-chunked-prefill",
        )
    for name, largest in (
        ("max_num_seqs", header.sequences),
        ("max_num_batched_tokens", header.tokens),
        ("max_num_scheduled_tokens", header.tokens),
    ):
        if (getattr(scheduler, name, None) or 0) > largest:
            _LOG.warning("glmc limits %s to %d, the largest step of %s", name, largest, header.path)
            setattr(scheduler, name, largest)

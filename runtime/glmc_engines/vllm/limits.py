"""What vLLM's options ask for and compiled plans do not have, by name; and what is set for them.

It is looked at in the process that reads the options, before any other is started, and again where
the model is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from glmc_engines.core.errors import EngineVersionError, NoArtifactError, UnsupportedError
from glmc_engines.core.header import Header
from glmc_engines.core.options import Options
from glmc_engines.vllm import compat
from glmc_engines.vllm.artifact import artifact_of
from glmc_engines.vllm.log import logger

_LOG = logger()


@dataclass(frozen=True)
class Limit:
    """An option that asks for ``feature`` unless its value is one of ``off``; None, False and empty
    values ask for nothing. ``fields`` are where a ``VllmConfig`` has the value, which differs from
    release to release: fields that a release does not have are passed over."""

    feature: str
    option: str
    fields: tuple[str, ...]
    off: tuple[object, ...] = ()

    def asked(self, config: Any) -> object:
        """The value that asks for the feature, else None."""
        for field in self.fields:
            value = compat.field_of(config, field)
            if value and value not in self.off:
                return value
        return None


LIMITS = (
    # Other weights than those of the artifact, or other places for them.
    Limit("LoRA adapters", "--enable-lora", ("lora_config",)),
    Limit("quantised weights", "--quantization", ("model_config.quantization",)),
    Limit(
        "weights in host memory",
        "--cpu-offload-gb",
        ("offload_config.uva.cpu_offload_gb", "cache_config.cpu_offload_gb"),
    ),
    Limit(
        "weights in host memory",
        "--offload-group-size",
        ("offload_config.prefetch.offload_group_size",),
    ),
    Limit(
        "weights in host memory",
        "--offload-backend",
        ("offload_config.offload_backend",),
        ("auto",),
    ),
    Limit("weights of a trainer", "--weight-transfer-config", ("weight_transfer_config",)),
    Limit(
        "config from elsewhere than the checkpoint",
        "--hf-config-path",
        ("model_config.hf_config_path",),
    ),
    # Steps of other kinds.
    Limit("speculative decoding", "--speculative-config", ("speculative_config",)),
    Limit(
        "pooling or other tasks than text generation",
        "--runner",
        ("model_config.runner_type",),
        ("generate",),
    ),
    Limit("prompt embeddings", "--enable-prompt-embeds", ("model_config.enable_prompt_embeds",)),
    Limit("micro-batches", "--enable-dbo", ("parallel_config.enable_dbo",)),
    Limit("micro-batches", "--ubatch-size", ("parallel_config.ubatch_size",), (1,)),
    # Other ranks than those of one tensor-parallel group.
    Limit(
        "pipeline stages",
        "--pipeline-parallel-size",
        ("parallel_config.pipeline_parallel_size",),
        (1,),
    ),
    Limit(
        "data parallel ranks", "--data-parallel-size", ("parallel_config.data_parallel_size",), (1,)
    ),
    Limit(
        "decode context parallelism",
        "--decode-context-parallel-size",
        ("parallel_config.decode_context_parallel_size",),
        (1,),
    ),
    Limit(
        "prefill context parallelism",
        "--prefill-context-parallel-size",
        ("parallel_config.prefill_context_parallel_size",),
        (1,),
    ),
    Limit("expert load balancing", "--enable-eplb", ("parallel_config.enable_eplb",)),
    # Other memory of keys and values, and looks into a step.
    Limit("hooks for KV connectors", "--kv-transfer-config", ("kv_transfer_config",)),
    Limit(
        "record of routed experts",
        "--enable-return-routed-experts",
        (
            "aux_output_config.enable_return_routed_experts",
            "model_config.enable_return_routed_experts",
        ),
    ),
)


def unsupported(config: Any) -> list[UnsupportedError]:
    """The options of a ``VllmConfig`` that compiled plans do not have, as errors."""
    return [
        UnsupportedError(
            f"compiled plans have no {feature}",
            place=f"vLLM, {option}",
            expected="unset",
            found=str(value) if isinstance(value, (str, int, float)) else type(value).__name__,
        )
        for feature, option, value in _asked(config)
    ]


def _asked(config: Any) -> Iterator[tuple[str, str, object]]:
    """What is asked for: in words, the option, its value."""
    for limit in LIMITS:
        if (value := limit.asked(config)) is not None:
            yield limit.feature, limit.option, value
    model, cache = config.model_config, config.cache_config
    if overrides := _overrides(model):
        yield "overrides of the checkpoint's config", "--hf-overrides", overrides
    if cache.cache_dtype != "auto" and compat.cache_dtype(config) != model.dtype:
        yield "KV cache of another dtype than the model", "--kv-cache-dtype", cache.cache_dtype


def _overrides(model: Any) -> str:
    """The fields of config.json that an option changes: a plan is of the file. How long sequences
    may be is for the limits of the artifact to say."""
    found = getattr(model, "hf_overrides", None) or {}
    if callable(found):
        return "a function"
    return ", ".join(sorted(set(found) - {"max_position_embeddings"}))


def check_experts(config: Any, header: Header) -> None:
    """Raise :class:`NoArtifactError` where ranks have whole experts and the option asks for a part
    of each, or the other way round. One rank has all of them."""
    asked = bool(getattr(config.parallel_config, "enable_expert_parallel", False))
    has = header.manifest.ranks.expert_parallel
    if asked == has or header.manifest.ranks.count == 1:
        return
    words = ("a part of each expert", "whole experts")
    raise NoArtifactError(
        f"the artifact has {words[has]} on each rank",
        place=str(header.path),
        expected=f"{words[asked]}, as --enable-expert-parallel is {'set' if asked else 'not set'}",
        found=f"compiled {'with' if has else 'without'} --expert-parallel",
        remedy=f"start vLLM {'with' if has else 'without'} --enable-expert-parallel, or compile "
        f"{'with' if asked else 'without'} --expert-parallel",
    )


def check_determinism(header: Header) -> None:
    """Raise :class:`UnsupportedError` for bits that were asked for and are not promised."""
    if compat.batch_invariant() and header.manifest.deterministic is None:
        raise UnsupportedError(
            "the bits of this artifact depend on the batch",
            place="vLLM, VLLM_BATCH_INVARIANT=1",
            expected="an artifact of glmc compile --deterministic",
            found=str(header.path),
            remedy="compile with --deterministic, or unset the variable",
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
            check_determinism(found.header)
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


def prepare_first(config: Any) -> bool:
    """:func:`prepare` for the process that reads the options. Where they ask for no CUDA graphs in
    another way than ``--enforce-eager``, that option is set: the others see no more of it."""
    off = _graphs_are_off(config)
    serves = prepare(config)
    if serves and off:
        config.model_config.enforce_eager = True
    return serves


def _graphs_are_off(config: Any) -> bool:
    """Whether ``cudagraph_mode`` is NONE, or is unset and follows from ``-O0``, which has been the
    level or mode of the compilation config in releases without ``optimization_level``."""
    mode = config.compilation_config.cudagraph_mode
    if mode is not None:
        return bool(mode.name == "NONE")
    fields = ("optimization_level", "compilation_config.level", "compilation_config.mode")
    values = (compat.field_of(config, field) for field in fields)
    return next((value for value in values if value is not None), None) == 0


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

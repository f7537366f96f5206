"""The artifact that serves a model of vLLM."""

from __future__ import annotations

from typing import Any

from glmc_engines.core.checkpoint import directory_of
from glmc_engines.core.header import Header, Sizes
from glmc_engines.core.options import Options
from glmc_engines.core.plan import artifact_for
from glmc_engines.core.wanted import Wanted, target_of
from glmc_engines.vllm import compat


def artifact_of(config: Any, options: Options) -> tuple[Header, str]:
    """The artifact for a ``VllmConfig``, and where it came from: named, or compiled of the model's
    config.json. Errors are those of :func:`glmc_engines.core.plan.artifact_for`."""
    model = config.model_config
    wanted = Wanted(
        target_of(compat.device_type()),
        sizes_of(config),
        expert_parallel=bool(getattr(config.parallel_config, "enable_expert_parallel", False)),
        smaller_steps=True,  # the scheduler's limits are lowered to the artifact's
    )
    found = artifact_for(directory_of(model.model, model.revision), wanted, options)
    return found.header, found.origin


def sizes_of(config: Any) -> Sizes:
    """What vLLM may ask for."""
    scheduler, model = config.scheduler_config, config.model_config
    return Sizes(
        tokens=scheduler.max_num_batched_tokens,
        sequences=scheduler.max_num_seqs,
        context=model.max_model_len,
        dtype=model.dtype,
        ranks=config.parallel_config.tensor_parallel_size,
    )

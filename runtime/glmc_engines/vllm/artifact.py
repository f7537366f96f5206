"""The artifact that serves a model of vLLM."""

from __future__ import annotations

from typing import Any

from glmc_engines.core.errors import NoArtifactError
from glmc_engines.core.header import Header, Sizes
from glmc_engines.core.options import Options


def artifact_of(config: Any, options: Options) -> tuple[Header, str]:
    """The artifact for a ``VllmConfig``, and where it came from. Raises :class:`NoArtifactError`
    where there is none."""
    if options.artifact is None:
        raise NoArtifactError("no artifact is named")
    return Header.of(options.artifact), "named"


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

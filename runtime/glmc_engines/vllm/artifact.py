"""The artifact that serves a model of vLLM.

It is found in the process that reads the options; others take it from there, by the config that
they are given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glmc_engines.core.checkpoint import directory_of
from glmc_engines.core.header import Header, Sizes
from glmc_engines.core.options import Options
from glmc_engines.core.plan import Found, artifact_for
from glmc_engines.core.wanted import Wanted, target_of
from glmc_engines.vllm import compat

_KEY = "glmc"  # in the part of a VllmConfig that is for plug-ins


def artifact_of(config: Any, options: Options) -> Found:
    """The artifact for a ``VllmConfig``; see :func:`glmc_engines.core.plan.artifact_for`."""
    known = compat.plugin_options(config).get(_KEY)
    if known is not None and Path(known["path"]).is_dir():
        return Found(Header.of(Path(known["path"])), known["origin"])
    model = config.model_config
    place = directory_of(
        model.model, model.revision, config.load_config.download_dir, compat.uses_modelscope()
    )
    found = artifact_for(place, wanted_of(config), options)
    compat.plugin_options(config)[_KEY] = {"path": str(found.path), "origin": found.origin}
    return found


def wanted_of(config: Any) -> Wanted:
    """What vLLM may ask for. Its scheduler can do with smaller steps."""
    scheduler, model, cache = config.scheduler_config, config.model_config, config.cache_config
    parallel = config.parallel_config
    return Wanted(
        target=target_of(compat.device_type()),
        sizes=Sizes(
            tokens=scheduler.max_num_batched_tokens,
            sequences=scheduler.max_num_seqs,
            context=model.max_model_len,
            dtype=model.dtype,
            ranks=parallel.tensor_parallel_size,
        ),
        block_size=cache.block_size if getattr(cache, "user_specified_block_size", False) else None,
        expert_parallel=bool(getattr(parallel, "enable_expert_parallel", False)),
        smaller_steps=True,
    )

"""Start an engine twice: over compiled plans, and as it is. Both stay up and are asked in turn."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.processes import Running, start

PLANS, ENGINE = "plans", "engine"
SIDES = (ENGINE, PLANS)
GRAPH_SEQUENCES = 256
"""With a limit of as many sequences vLLM makes all of its device graphs: they are of up to twice as
many tokens, and of 512 at most."""
_OURS = ("GLMC_ARTIFACT", "GLMC_COMPILER", "GLMC_REQUIRE")


def write_checkpoint(config: Mapping[str, Any], folder: Path) -> Path:
    """A checkpoint of a config alone, for dummy weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
    return folder


def most_sequences(batches: Iterable[int]) -> int:
    """vLLM's limit of sequences in a step, for decode steps of these."""
    return max((GRAPH_SEQUENCES, *batches))


def engine_options(
    checkpoint: Path,
    quick: bool,
    *,
    longest: int,
    sequences: int,
    tokens: int,
    cache_bytes: int,
) -> dict[str, Any]:
    """What every vLLM is told: the length of the ``longest`` sequence, the most ``sequences`` and
    ``tokens`` of a step, and the size of its cache."""
    return {
        "model": str(checkpoint),
        "load_format": "dummy",
        "dtype": "float32" if quick else "bfloat16",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "max_model_len": longest,
        "max_num_seqs": sequences,
        "max_num_batched_tokens": tokens,
        "enable_prefix_caching": True,  # a round after the first finds its prompts
        "disable_log_stats": True,
        "gpu_memory_utilization": 0.2,
        "kv_cache_memory_bytes": cache_bytes,
    }


@contextmanager
def running(
    options: Mapping[str, dict[str, Any]],
    artifact: Path,
    logs: Path,
    plugins: Mapping[str, str],
    own: Mapping[str, str],
) -> Iterator[list[Running]]:
    """Both sides, each with its ``options`` of the engine, started at once. ``plugins`` are those
    of vLLM that each side may load; ``own`` are environment variables of the one with plans."""
    with tempfile.TemporaryDirectory() as above:
        made: list[Running] = []
        try:
            for name in SIDES:
                made.append(_started(name, Path(above), artifact, logs, plugins[name], own))
                made[-1].connection.send(options[name])
            for side in made:
                side.wait()
            yield made
        finally:
            for side in made:
                side.end()


def engine_environment(plugins: str) -> dict[str, str]:
    """That of an engine that loads these plug-ins of vLLM and is told nothing of ours."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # functions are sent to the model
        "VLLM_PLUGINS": plugins,
    }
    for key in _OURS:
        environment.pop(key, None)
    return environment


def _started(
    name: str, folder: Path, artifact: Path, logs: Path, plugins: str, own: Mapping[str, str]
) -> Running:
    environment = engine_environment(plugins)
    if name == PLANS:
        environment |= {"GLMC_ARTIFACT": str(artifact), "GLMC_REQUIRE": "1", **own}
    with open(logs / f"{name}.log", "wb") as log:
        return start(name, "bench.engines.side", folder, environment, log)

"""Start an engine twice: over compiled plans, and as it is. Both stay up and are asked in turn."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.processes import Running, start

PLANS, ENGINE = "plans", "engine"
SIDES = (ENGINE, PLANS)
_OURS = ("GLMC_ARTIFACT", "GLMC_COMPILER", "GLMC_REQUIRE")


def write_checkpoint(config: Mapping[str, Any], folder: Path) -> Path:
    """A checkpoint of a config alone, for dummy weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
    return folder


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

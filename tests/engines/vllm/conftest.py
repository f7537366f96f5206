"""Artifacts and references for tests inside vLLM, which runs in this process, on the host.

``GLMC_COMPILER`` names the interpreter that has glmc; artifacts are kept in ``.engines/artifacts``,
where ``--if-changed`` finds them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engines.vllm.reference import ROOT, Reference

# Read when vLLM is imported, in this process and in those that it starts.
os.environ["GLMC_ENGINE_PLATFORM"] = "cpu"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

COMPILER = os.environ.get("GLMC_COMPILER", sys.executable)
KEPT = ROOT / ".engines" / "artifacts"
Compile = Callable[..., Path]


@pytest.fixture(scope="session")
def artifact() -> Compile:
    """Compiles a shipped model, in float32, with further options of ``glmc compile``."""

    def compile_it(model: str, *options: str) -> Path:
        path = KEPT / "-".join([model, *(option.strip("-") for option in options)])
        command = [COMPILER, "-c", "from glmc.cli.main import main; main()", "compile"]
        command += [str(ROOT / "models" / model), "--target=cpu", "--dtype=float32", *options]
        command += [f"--output={path}", "--if-changed", "--quiet"]
        path_of_python = os.pathsep.join(map(str, (ROOT, ROOT / "runtime")))
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path_of_python})
        return path

    return compile_it


@pytest.fixture(scope="session")
def reference() -> Callable[[str], Reference]:
    """What transformers answers, by model."""
    kept: dict[str, Reference] = {}

    def of(model: str) -> Reference:
        if model not in kept:
            kept[model] = Reference(ROOT / "models" / model)
        return kept[model]

    return of


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """vLLM's engine in this process; what its start sets is undone."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    for name in ("GLMC_ARTIFACT", "GLMC_COMPILER", "GLMC_REQUIRE"):
        monkeypatch.delenv(name, raising=False)
    yield monkeypatch

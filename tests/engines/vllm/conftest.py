"""Artifacts, references and servers for tests inside vLLM, which runs on the host, in this process
or in others.

``GLMC_COMPILER`` names the interpreter that has glmc; artifacts are kept in ``.engines/artifacts``,
where ``--if-changed`` finds them.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engines.vllm.forks import Forks
from tests.engines.vllm.reference import ROOT, Answer, Reference
from tests.engines.vllm.server import Server, serve

# Read when vLLM is imported, in this process and in those that it starts.
os.environ["GLMC_ENGINE_PLATFORM"] = "cpu"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

COMPILER = os.environ.get("GLMC_COMPILER", sys.executable)
KEPT = ROOT / ".engines" / "artifacts"
Compile = Callable[..., Path]

CONTEXT = 256
POOL = 20 * 16
"""Tokens in the KV cache."""
SMALL = ["--max-model-len", str(CONTEXT), "--served-model-name", "tiny"]
SMALL += ["--max-num-batched-tokens", "48", "--max-num-seqs", "12"]
SMALL += ["--block-size", "16", "--num-gpu-blocks-override", "21"]  # one of them is vLLM's own
READ = ["--enable-auto-tool-choice", "--tool-call-parser", "glm45", "--reasoning-parser", "glm45"]
# A grammar would wait for the token </think>, which the tokenizers of tiny models lack.
READ += ["--structured-outputs-config.enable_in_reasoning=true"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that ends the server of all is the last one, whatever the order of files."""
    items.sort(key=lambda item: "server_to_end" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def artifact() -> Compile:
    """Compiles a shipped model, in float32, with further options of ``glmc compile``. Of processes
    that want the same artifact at once the first one compiles it."""
    KEPT.mkdir(parents=True, exist_ok=True)

    def compile_it(model: str, *options: str) -> Path:
        path = KEPT / "-".join([model, *(option.strip("-") for option in options)])
        command = [COMPILER, "-c", "from glmc.cli.main import main; main()", "compile"]
        command += [str(ROOT / "models" / model), "--target=cpu", "--dtype=float32", *options]
        command += [f"--output={path}", "--if-changed", "--quiet"]
        path_of_python = os.pathsep.join(map(str, (ROOT, ROOT / "runtime")))
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
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


@pytest.fixture(scope="session")
def answers(reference: Callable[[str], Reference]) -> list[Answer]:
    """Of tiny-moe."""
    model = reference("tiny-moe")
    return [model.answer(prompt, 24) for prompt in model.prompts(12)]


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Begins processes that have imported vLLM already."""
    begun = Forks(tmp_path_factory.mktemp("forks") / "log")
    yield begun
    begun.end()


@pytest.fixture(scope="session")
def server(
    forks: Forks, artifact: Compile, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One of tiny-moe for all tests that need one which is up, with a small cache."""
    log = tmp_path_factory.mktemp("server") / "log"
    environment = {"GLMC_ARTIFACT": str(artifact("tiny-moe")), "GLMC_REQUIRE": "1"}
    model = ROOT / "models" / "tiny-moe"
    with serve(model, log, environment, *SMALL, *READ, begin=forks.begin) as started:
        yield started


@pytest.fixture
def server_to_end(server: Server) -> Server:
    """The same, for a test after which there is none."""
    return server


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """vLLM's engine in this process; what its start sets is undone."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    for name in ("GLMC_ARTIFACT", "GLMC_COMPILER", "GLMC_REQUIRE"):
        monkeypatch.delenv(name, raising=False)
    yield monkeypatch

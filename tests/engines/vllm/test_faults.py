"""A server that something happens to: its artifact, its clients, its memory, its processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engines.processes import processes_of, resident
from tests.engines.storm import Visit, told
from tests.engines.vllm import artifacts
from tests.engines.vllm.conftest import CONTEXT, POOL, SMALL, Compile
from tests.engines.vllm.forks import Begin, Forks, afresh
from tests.engines.vllm.killed import assert_that_it_ends
from tests.engines.vllm.reference import ROOT, Answer
from tests.engines.vllm.server import Server, launch, stop
from tests.engines.vllm.wire import WIRE, differing, differing_in_one, leaving, wrong

START = 180.0
"""Seconds in which a start that can't succeed has to end."""
MIB = 2**20
LEAK = 16
"""MiB that a process may grow by in the last of three storms of 500. What it keeps is limited, 64
bound steps of prefill and their views of the experts' rows, and mostly there after two storms; 32
KiB for each request, or 10 for each step, would be more."""


@dataclass(frozen=True)
class Ended:
    """A start that did not succeed."""

    status: int
    log: str


def started(log: Path, begin: Begin, **environment: str) -> Ended:
    """A start that has to end by itself."""
    model = ROOT / "models" / "tiny-moe"
    server = launch(model, log, {"GLMC_REQUIRE": "1"} | environment, *SMALL, begin=begin)
    try:
        status = server.process.wait(START)
    finally:
        stop(server.process)
    return Ended(status, log.read_text(errors="replace"))


@pytest.fixture(scope="module")
def starts(
    forks: Forks, artifact: Compile, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Ended]]]:
    """Starts with what is wrong with each, two at a time. What another release lacks has to lack
    when vLLM is imported."""
    folder = tmp_path_factory.mktemp("starts")
    right = artifact("tiny-moe")
    (folder / "other").mkdir()
    (folder / "other" / "sitecustomize.py").write_text(OTHER_RELEASE)
    path = os.pathsep.join((str(folder / "other"), os.environ.get("PYTHONPATH", "")))
    environments = {
        "cut short": {"GLMC_ARTIFACT": str(artifacts.cut_short(right, folder / "short"))},
        "flipped": {"GLMC_ARTIFACT": str(artifacts.flipped(right, folder / "flipped"))},
        "missing": {"GLMC_ARTIFACT": str(folder / "nothing")},
        "other model": {"GLMC_ARTIFACT": str(artifact("tiny-dense"))},
        "other release": {"GLMC_ARTIFACT": str(right), "PYTHONPATH": path},
    }
    with ThreadPoolExecutor(2) as threads:
        yield {
            name: threads.submit(
                started,
                folder / f"{name}.log",
                afresh if name == "other release" else forks.begin,
                **environment,
            )
            for name, environment in environments.items()
        }


OTHER_RELEASE = '''
"""A release of vLLM whose registry has no register_model."""
import importlib.abc, importlib.machinery, sys

NAME = "vllm.model_executor.models.registry"

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != NAME:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            del module._ModelRegistry.register_model
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
'''


@pytest.mark.parametrize(
    ("name", "code", "cause"),
    [
        ("cut short", "[GLMC-2001]", "weights"),
        ("flipped", "[GLMC-2001]", "decode"),
        ("missing", "[GLMC-2001]", "there is no such artifact directory"),
        ("other model", "[GLMC-4002]", "the artifact is of another model than the engine's"),
        ("other release", "[GLMC-4003]", "register_model"),
    ],
)
def test_a_start_that_ends_with_our_error(
    starts: dict[str, Future[Ended]], name: str, code: str, cause: str
) -> None:
    ended = starts[name].result()
    assert ended.status != 0
    assert code in ended.log, ended.log[-4000:]
    text = ended.log[ended.log.index(code) :]
    assert cause in text[:600], text[:600]
    assert "glmc serves" not in ended.log


def test_requests_wait_and_are_taken_back_where_the_cache_is_full(
    server: Server, answers: list[Answer]
) -> None:
    assert sum(len(each.prompt) + len(each.tokens) for each in answers) > 2 * POOL
    before = server.metric("vllm:num_preemptions_total")
    assert differing_in_one(server, answers) == []
    assert server.metric("vllm:num_preemptions_total") > before
    at_rest(server)


def test_a_prompt_that_is_longer_than_the_cache(server: Server, answers: list[Answer]) -> None:
    """vLLM's own answer says how long one may be."""
    with pytest.raises(RuntimeError, match=rf"^400: .*{CONTEXT}"):
        told(server.port, WIRE, Visit((5,) * 2 * CONTEXT, 4))
    assert differing(server, answers[:2]) == []


CLIENT = """
import http.client, json, sys
client = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
body = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 240, "stream": True, "ignore_eos": True}
client.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
for line in client.getresponse():
    print("part", flush=True)
"""


def test_a_client_that_is_killed_in_its_stream(server: Server, answers: list[Answer]) -> None:
    """Others, which came before and after it, go on."""
    command = [sys.executable, "-c", CLIENT, str(server.port)]
    with ThreadPoolExecutor(1) as threads:
        others = threads.submit(differing, server, answers[:6])
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline()
            assert differing(server, answers[6:8]) == []
            assert process.poll() is None
            process.kill()
        assert differing(server, answers[8:10]) == []
        assert others.result() == []
    at_rest(server)


def test_storms_of_clients_that_leave(
    server: Server, answers: list[Answer], capsys: pytest.CaptureFixture[str]
) -> None:
    """The first two fill what fills once: threads, bound steps, memory that is kept for reuse."""
    running = processes_of(server.process.pid)
    sizes = [[resident([each]) for each in running]]
    for seed in (1, 2, 3):
        assert wrong(server, leaving(answers, 500, seed)) == []
        at_rest(server)
        sizes.append([resident([each]) for each in running])
    assert differing(server, answers) == []
    at_rest(server)
    rows = [[size // MIB for size in row] for row in zip(*sizes, strict=True)]
    with capsys.disabled():
        print("\nMiB of each process, before and after each storm:", rows)
    assert max(row[-1] - row[-2] for row in rows) < LEAK, rows


def at_rest(server: Server) -> None:
    """Nothing runs, waits or holds a block, and each step was a replay."""
    server.wait_until_idle()
    assert server.metric("vllm:kv_cache_usage_perc") == 0
    assert server.metric("glmc_steps_total") == server.metric("glmc_replays_total") > 0


def test_an_engine_that_is_killed_in_a_step(server_to_end: Server) -> None:
    """The server ends, and with it what it has started."""
    assert_that_it_ends(server_to_end, "EngineCore", tokens=CONTEXT - 10)

"""Processes, clients, memory and counts that fail under a server over compiled plans.

One server with a pool that is too small for its requests; the last test kills its scheduler.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.engines.processes import left, mapped_shared_memory, named, processes_of, resident
from tests.engines.sglang.server import Server, command, serving
from tests.engines.sglang.support import Reference, prompts
from tests.engines.storm import Event, Visit, Wire, outcomes, storm, visits

MODEL = "tiny-dense"
CONTEXT = 1088
POOL = 1216
OPTIONS = ["--page-size", "16", "--chunked-prefill-size", "64", "--max-running-requests", "12"]
OPTIONS += ["--max-total-tokens", str(POOL), "--context-length", str(CONTEXT), "--enable-metrics"]
# New tokens that the scheduler takes a request to have when it lets one in.
EAGER = {"SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION": "16"}
GROWTH = 8 << 20
"""Bytes that the server's processes may grow by in one storm of 500 requests; it is one or two."""
SECONDS = 30.0
"""In which everything ends that has to end."""
CLIENT = """
import sys
from urllib.request import Request, urlopen

head = {"Content-Type": "application/json"}
with urlopen(Request(sys.argv[1], sys.argv[2].encode(), head)) as answer:
    for line in answer:
        print(line.decode().strip(), flush=True)
"""


def body(visit: Visit) -> dict[str, Any]:
    asked = {"temperature": 0, "max_new_tokens": visit.tokens, "ignore_eos": True}
    return {"input_ids": list(visit.text), "sampling_params": asked, "stream": True}


def tokens(events: Any) -> list[int]:
    """SGLang's events tell all tokens so far."""
    last: Event = events[-1] if events else {"output_ids": []}
    found: list[int] = last["output_ids"]
    return found


WIRE = Wire("/generate", body, tokens)
FEW = visits(12, seed=9, longest=60, tokens=24, vocabulary=1500)
LONG = [Visit(tuple(text), 300) for text in prompts(8, 40, seed=4)]


@pytest.fixture(scope="module")
def server(artifact: Callable[..., str]) -> Iterator[Server]:
    with serving(MODEL, artifact(MODEL), *OPTIONS, begin=command, **EAGER) as started:
        yield started


@pytest.fixture(scope="module")
def expected(reference: Callable[[str], Reference]) -> Reference:
    return reference(MODEL)


def check(expected: Reference, those: list[Visit], answers: list[list[int]]) -> None:
    for visit, answer in zip(those, answers, strict=True):
        assert len(answer) == visit.tokens
        assert expected.first_difference(list(visit.text), answer) is None


def test_a_client_that_is_killed_in_mid_stream(server: Server, expected: Reference) -> None:
    others = [Visit(tuple(text), 60) for text in prompts(6, 40, seed=3)]
    before = server.metric("sglang:num_aborted_requests_total")
    # SGLang gives a request up two seconds after its client has gone: it must last longer.
    asked = json.dumps(body(Visit(tuple(range(20, 50)), CONTEXT - 40)))
    command = [sys.executable, "-c", CLIENT, f"{server.address}/generate", asked]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client, ThreadPoolExecutor(1) as rest:
        assert client.stdout is not None
        assert client.stdout.readline().startswith(b"data:")
        answers = rest.submit(storm, server.port, WIRE, others)
        client.kill()
        check(expected, others, answers.result(SECONDS))
    server.wait_until_idle(SECONDS)
    assert server.metric("sglang:num_aborted_requests_total") == before + 1


def test_a_full_pool_of_keys_and_values(server: Server, expected: Reference) -> None:
    # Two of them fill the pool, and each lasts so long that the others come meanwhile.
    those = [Visit(tuple(text), 600) for text in prompts(4, 60)]
    name = "sglang:num_retracted_requests_total"
    before = server.metric(name)
    check(expected, those, storm(server.port, WIRE, those))
    assert server.metric(name) > before


def test_a_prompt_that_is_too_long_is_the_client_s_error(server: Server) -> None:
    asked = body(Visit((5,) * (CONTEXT + 1), 4)) | {"stream": False}
    answer = server.post("/generate", asked, status=400)
    assert str(CONTEXT) in json.dumps(answer)
    assert server.post("/generate", body(FEW[0]) | {"stream": False})["output_ids"]


def test_storms_of_clients_that_leave(server: Server, expected: Reference) -> None:
    """Nothing of 500 requests stays behind, whenever their clients go away."""
    processes = processes_of(server.process.pid)
    first = storm(server.port, WIRE, FEW)
    check(expected, FEW, first)
    before = at_rest(server)
    held = []
    for seed in (1, 2):
        those = visits(500, seed=seed, longest=60, tokens=24, vocabulary=1500, leaving=0.4)
        answers = storm(server.port, WIRE, those)
        full = [
            (visit, answer)
            for visit, answer in zip(those, answers, strict=True)
            if visit.leaves is None
        ]
        assert all(len(answer) == visit.tokens for visit, answer in full)
        some = full[::25]
        check(expected, [visit for visit, _ in some], [answer for _, answer in some])
        assert at_rest(server) == before
        held.append(resident(processes))
    assert storm(server.port, WIRE, FEW) == first
    assert held[1] - held[0] < GROWTH
    steps, replays = (server.metric(f"glmc_{name}_total") for name in ("steps", "replays"))
    assert steps == replays > 500


def at_rest(server: Server) -> list[int]:
    """Requests that run and wait, and places in use, without what is kept of prefixes."""
    server.wait_until_idle(SECONDS)
    server.get("/flush_cache")
    load = server.load()
    return [load[name] for name in ("num_running_reqs", "num_waiting_reqs", "num_used_tokens")]


def test_a_scheduler_that_is_killed(server: Server) -> None:
    """Every client has an answer or an error, and no process is left; it is SGLang that ends it."""
    processes = processes_of(server.process.pid)
    shared = mapped_shared_memory(processes)
    with ThreadPoolExecutor(1) as clients:
        ends = clients.submit(outcomes, server.port, WIRE, LONG)
        patience = time.monotonic() + SECONDS
        while not server.load()["num_running_reqs"]:
            assert time.monotonic() < patience
        named(processes, "sglang::scheduler").kill()
        killed = time.monotonic()
        assert server.process.wait(SECONDS) != 0
        assert "answered" not in ends.result(SECONDS)
    assert left(processes, SECONDS) == []
    assert time.monotonic() - killed < SECONDS
    assert [path for path in shared if path.exists() and "sglang" not in path.name] == []
    assert "crashed with exit code -9" in server.log()

"""Processes that are ranks themselves: torchrun's, and those of an outer engine's group."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.toy import reference_greedy

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]
PROMPTS = [[7, 3, 9, 1], [5, 2]]
LEADING = """
import json, sys
import glmc_runtime
with glmc_runtime.load(sys.argv[1]) as session:
    if not session.follow():
        answers = session.generate(json.loads(sys.argv[2]), max_new_tokens=6, ignore_eos=True)
        parent = session.sequence([7, 3, 9, 1])
        session.prefill([parent])
        logits = session.decode([parent, session.fork(parent)], [5, 6])
        print(json.dumps([each.tokens for each in answers]))
"""
GROUP = """
import json, sys
import torch.distributed as dist
import glmc_runtime
dist.init_process_group("gloo")
session = glmc_runtime.load(sys.argv[1], process_group=dist.group.WORLD)
assert not session.follow()
answers = session.generate(json.loads(sys.argv[2]), max_new_tokens=6, ignore_eos=True)
print(json.dumps([each.tokens for each in answers]))

from glmc_runtime.replay.step import ScheduledTokens
from tests.runtime.engine.outer.steps import outer_step
from tests.runtime.engine.outer.test_model import memory
model = glmc_runtime.load_model(sys.argv[1], process_group=dist.group.WORLD).attach(memory())
chunks = [ScheduledTokens(row, 0, [3, 1]) for row in json.loads(sys.argv[2])[:1]]
print(model.step(outer_step(chunks, 4, 16)).argmax(-1).tolist())
dist.destroy_process_group()
"""

CHANNEL = """
from pathlib import Path
import torch.distributed as dist
from glmc_runtime.engine.ranks.leading import GroupChannel

def has_threads():
    return any("gloo" in each.read_text() for each in Path("/proc/self/task").glob("*/comm"))

dist.init_process_group("gloo")
channel = GroupChannel(own=True)
channel.send(b"x")
print(has_threads())
channel.close()
print(has_threads())
"""


def environment(kernels: Path, rank: int, size: int, port: int) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}:{kernels}",
        "OMP_NUM_THREADS": "1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def run_ranks(kernels: Path, script: str, *arguments: str, size: int = 2) -> list[tuple[str, str]]:
    """Output and errors of each rank, which must end alike."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(kernels, rank, size, port),
        )
        for rank in range(size)
    ]
    try:
        return [process.communicate(timeout=100) for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_rank_0_leads_and_the_others_follow(greedy_ranks_path: Path, kernels: Path) -> None:
    (first, errors), (second, others) = run_ranks(
        kernels, LEADING, str(greedy_ranks_path), json.dumps(PROMPTS)
    )
    assert json.loads(first) == [reference_greedy(each, 6) for each in PROMPTS], errors
    assert second == "" and "Traceback" not in others


def test_each_process_of_a_group_takes_the_steps_itself(ranks_path: Path, kernels: Path) -> None:
    results = run_ranks(kernels, GROUP, str(ranks_path), json.dumps(PROMPTS))
    for output, errors in results:
        assert output, errors
        tokens, of_model = map(json.loads, output.splitlines())
        assert tokens == [reference_greedy(each, 6) for each in PROMPTS], errors
        assert of_model == reference_greedy(PROMPTS[0], 1)


def test_threads_of_messages_end_with_their_channel(kernels: Path) -> None:
    """One that is at work while the interpreter ends aborts the process."""
    ((output, errors),) = run_ranks(kernels, CHANNEL, size=1)
    assert output.split() == ["True", "False"], errors


@pytest.mark.slow
def test_torchrun_runs_the_command(ranks_path: Path, kernels: Path) -> None:
    result = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("-m", "glmc_runtime.cli", "run", str(ranks_path), "--token-ids", "7,3,9,1"),
            *("--max-new-tokens", "6", "--ignore-eos", "--json"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}:{kernels}"},
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["completions"][0]["tokens"] == reference_greedy([7, 3, 9, 1], 6)

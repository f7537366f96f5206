"""Two tensor parallel ranks of vLLM's own, over gloo."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.engines.vllm.conftest import Compile
from tests.engines.vllm.forks import Forks
from tests.engines.vllm.killed import assert_that_it_ends
from tests.engines.vllm.reference import ROOT, Reference
from tests.engines.vllm.server import Server, serve


def test_two_ranks_and_the_end_of_one(
    forks: Forks, artifact: Compile, reference: Callable[[str], Reference], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    # As ``vllm serve`` begins them: of a killed rank that was forked clients heard nothing.
    spawned = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    path = artifact("tiny-moe", "--tensor-parallel=2")
    with two_ranks(forks, path, log, spawned) as server:
        check(server, reference("tiny-moe"))
        assert_that_it_ends(server, "Worker_TP1", tokens=1000)
    assert "2 ranks" in log.read_text()


def test_whole_experts_on_each_rank(
    forks: Forks, artifact: Compile, reference: Callable[[str], Reference], tmp_path: Path
) -> None:
    path = artifact("tiny-moe", "--tensor-parallel=2", "--expert-parallel")
    with two_ranks(forks, path, tmp_path / "log", {}, "--enable-expert-parallel") as server:
        check(server, reference("tiny-moe"))


@contextlib.contextmanager
def two_ranks(
    forks: Forks, path: Path, log: Path, environment: dict[str, str], *options: str
) -> Iterator[Server]:
    """A server of tiny-moe, by an artifact."""
    words = ["--tensor-parallel-size", "2", "--distributed-executor-backend", "mp"]
    words += ["--max-model-len", "1024", "--served-model-name", "tiny", *options]
    environment = {"GLMC_ARTIFACT": str(path), "GLMC_REQUIRE": "1", **environment}
    with serve(ROOT / "models" / "tiny-moe", log, environment, *words, begin=forks.begin) as server:
        yield server


def check(server: Server, model: Reference) -> None:
    """That tokens are those of transformers, and that each rank's steps are replays."""
    from openai import OpenAI

    answers = [model.answer(prompt, 12) for prompt in model.prompts(4)]
    client: Any = OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=120)
    found = client.completions.create(
        model="tiny",
        prompt=[answer.prompt for answer in answers],
        max_tokens=12,
        temperature=0,
        extra_body={"ignore_eos": True, "return_token_ids": True},
    )
    tokens = [choice.token_ids for choice in found.choices]
    pairs = zip(answers, tokens, strict=True)
    assert [answer.prompt for answer, has in pairs if not answer.agrees(has)] == []
    for rank in ("0", "1"):
        steps = server.metric("glmc_steps_total", rank=rank)
        assert steps == server.metric("glmc_replays_total", rank=rank) > 0

"""Two tensor parallel ranks of vLLM's own, over gloo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.engines.vllm.conftest import Compile
from tests.engines.vllm.forks import Forks
from tests.engines.vllm.killed import assert_that_it_ends
from tests.engines.vllm.reference import ROOT, Reference
from tests.engines.vllm.server import serve


def test_two_ranks_and_the_end_of_one(
    forks: Forks, artifact: Compile, reference: Callable[[str], Reference], tmp_path: Path
) -> None:
    from openai import OpenAI

    model = reference("tiny-moe")
    answers = [model.answer(prompt, 12) for prompt in model.prompts(4)]
    path = artifact("tiny-moe", "--tensor-parallel=2")
    environment = {"GLMC_ARTIFACT": str(path), "GLMC_REQUIRE": "1"}
    # As ``vllm serve`` begins them: of a killed rank that was forked clients heard nothing.
    environment["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    options = ["--tensor-parallel-size", "2", "--distributed-executor-backend", "mp"]
    options += ["--max-model-len", "1024", "--served-model-name", "tiny"]
    log = tmp_path / "log"
    model_path = ROOT / "models" / "tiny-moe"
    with serve(model_path, log, environment, *options, begin=forks.begin) as server:
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
        assert_that_it_ends(server, "Worker_TP1", tokens=1000)
    assert "2 ranks" in log.read_text()

"""Starts that can't be: the engine ends with our error in its own, named; or leaves us out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engines.sglang.server import Server, serving, started


def ended(server: Server) -> str:
    """The log of a server that must end by itself."""
    assert server.process.wait(180) != 0
    return server.log()


def test_an_option_that_plans_lack(artifact: Callable[..., str]) -> None:
    path = artifact("tiny-dense")
    with started(
        "tiny-dense",
        path,
        "--enable-lora",
        "--max-lora-rank",
        "8",
        "--lora-target-modules",
        "q_proj",
    ) as server:
        log = ended(server)
    assert "[GLMC-4001]" in log
    assert "--enable-lora of SGLang" in log


@pytest.mark.parametrize(
    ("model", "of", "reason"),
    [("tiny-dense", "tiny-moe", "of another model"), ("tiny-dense", None, "no such artifact")],
)
def test_an_artifact_that_does_not_fit(
    artifact: Callable[..., str], tmp_path: Path, model: str, of: str | None, reason: str
) -> None:
    path = str(tmp_path / "missing") if of is None else artifact(of)
    with started(model, path) as server:
        log = ended(server)
    assert "[GLMC-" in log
    assert reason in log


def test_required_and_nothing_is_named() -> None:
    with started("tiny-dense", None, GLMC_REQUIRE="1", GLMC_COMPILER="") as server:
        log = ended(server)
    assert "[GLMC-4002] no artifact is named" in log


def test_left_to_the_engine_and_said_so() -> None:
    with serving("tiny-dense", None, "--enable-metrics", GLMC_COMPILER="") as server:
        answer = server.post("/generate", {"text": "a", "sampling_params": {"max_new_tokens": 2}})
        assert answer["meta_info"]["completion_tokens"] == 2
        assert re.search(r"^glmc_serves\{.*\} 0\.0$", server.get("/metrics"), re.MULTILINE)
        assert "glmc leaves tiny-dense to SGLang" in server.log()

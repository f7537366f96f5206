"""A fork stands for a process of a new interpreter."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.engines.vllm.forks import Forks


@pytest.mark.parametrize(("module", "words", "status"), [("this", [], 0), ("json.tool", ["-"], 1)])
def test_its_log_and_how_it_ends(
    forks: Forks, tmp_path: Path, module: str, words: list[str], status: int
) -> None:
    fork = forks.begin(module, words, os.environ, tmp_path / "log")
    assert fork.wait(60) == fork.poll() == status
    assert {0: "Beautiful is better", 1: "Expecting value"}[status] in (
        tmp_path / "log"
    ).read_text()


def test_its_environment_is_the_given_one(forks: Forks, tmp_path: Path) -> None:
    environment = {"PYTHONUSERBASE": "/given"}
    forks.begin("site", ["--user-base"], environment, tmp_path / "log").wait(60)
    assert (tmp_path / "log").read_text() == "/given\n"


def test_it_is_killed_with_its_session(forks: Forks, tmp_path: Path) -> None:
    words = ["0", "--bind", "127.0.0.1"]
    fork = forks.begin("http.server", words, os.environ, tmp_path / "log")
    assert fork.poll() is None
    assert os.getsid(fork.pid) == fork.pid
    os.killpg(fork.pid, signal.SIGKILL)
    assert fork.wait(60) == -signal.SIGKILL

"""Sessions of several ranks, whose processes find the toy's kernels as those of a distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from glmc_runtime.engine.ranks.controller import start_ranks
from glmc_runtime.engine.ranks.serve import Settings
from glmc_runtime.generate.session import Session
from glmc_runtime.loading.loader import load_artifact
from tests.support.distributions import install

Start = Callable[..., Session]


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a distribution whose kernels are the toy's."""
    points = {"glmc_runtime.kernels": {"test": "tests.runtime.toy_kernels"}}
    return install(tmp_path_factory.mktemp("kernels"), "toy-kernels", points)


@pytest.fixture
def start(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts ranks of an artifact; they are ended after the test."""
    monkeypatch.syspath_prepend(str(kernels))
    sessions: list[Session] = []

    def start(path: Path, ranks: int = 2, **changes: object) -> Session:
        settings = {
            "verify_hashes": True,
            "emulate": None,
            "device": None,
            "kv_blocks": None,
            "kv_memory_bytes": None,
            "timing": False,
            "guard_steps": 2,
            **changes,
        }
        artifact = load_artifact(path)
        session = Session(artifact, start_ranks(artifact, Settings(str(path), 0, ranks, **settings)))
        sessions.append(session)
        return session

    yield start
    for session in sessions:
        session.close()

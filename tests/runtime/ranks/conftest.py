"""Artifacts and sessions of several ranks, whose processes find the toy's kernels as those of a
distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import glmc_runtime
from glmc_runtime.engine.ranks import watch
from glmc_runtime.generate.session import Session
from tests.runtime.toy import write_toy
from tests.support.distributions import install

Start = Callable[..., Session]


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a distribution whose kernels are the toy's."""
    points = {"glmc_runtime.kernels": {"test": "tests.runtime.toy_kernels"}}
    return install(tmp_path_factory.mktemp("kernels"), "toy-kernels", points)


@pytest.fixture(scope="session")
def ranks_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy of two ranks, which add their embeddings."""
    return write_toy(tmp_path_factory.mktemp("ranks") / "toy", ranks=2)


@pytest.fixture(scope="session")
def greedy_ranks_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with its greedy tokens."""
    return write_toy(tmp_path_factory.mktemp("greedy-ranks") / "toy", greedy=True, ranks=2)


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(watch, "start", never)


@pytest.fixture
def start(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Loads an artifact of several ranks; they are ended after the test."""
    monkeypatch.syspath_prepend(str(kernels))
    sessions: list[Session] = []

    def load(path: Path, **options: Any) -> Session:
        session = glmc_runtime.load(path, **options)
        sessions.append(session)
        return session

    yield load
    for session in sessions:
        session.close()

"""Fixtures of the runtime's tests: one toy artifact per run, a fresh session per test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import glmc_runtime
from glmc_runtime.generate.session import Session
from tests.runtime.toy import write_toy

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("artifact") / "toy")


@pytest.fixture
def session(toy_path: Path) -> Session:
    return glmc_runtime.load(toy_path)


@pytest.fixture(scope="session")
def greedy_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a toy that computes its greedy tokens."""
    return write_toy(tmp_path_factory.mktemp("greedy") / "toy", greedy=True)


@pytest.fixture
def ahead(greedy_path: Path) -> Session:
    """A session that can decode a step ahead."""
    return glmc_runtime.load(greedy_path)

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

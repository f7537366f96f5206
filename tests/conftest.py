"""One thread per test process: the suite runs in two processes, and sums stay in one order."""

from __future__ import annotations

import os

import pytest

# Tiny graphs trace faster without torch's cache of fake results: it never pays for its keys.
os.environ.setdefault("TORCH_FAKE_TENSOR_DISPATCH_CACHE", "0")

import torch

# Triton reads it while it is imported, so it is set before anything can import Triton.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

torch.set_num_threads(1)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture
def shared_captures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiles of this test share captures with others; for tests of what comes behind capture."""
    from tests.support.captures import remembered

    monkeypatch.setattr("glmc.driver.capture", remembered)

"""Which of two kernels a test runs, ours in C or torch's, and with how many threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from glmc_runtime.kernels.cpu import decode_library


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where nothing can be compiled."""
    monkeypatch.setattr(decode_library, "_library", lambda: None)


@pytest.fixture
def threads() -> Iterator[None]:
    """Their number may be changed."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)

"""Which of two kernels a test runs: ours in C, or torch's."""

from __future__ import annotations

import pytest

from glmc_runtime.kernels.cpu import decode_library


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where nothing can be compiled."""
    monkeypatch.setattr(decode_library, "_library", lambda: None)

"""Compiles of Dynamo without its stopwatch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def _no_stopwatch() -> Iterator[None]:
    """After each compile Dynamo empties the processor's caches to time its guards, for a log."""
    from torch._dynamo import guards

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guards, "profile_guard_manager", lambda *_: 0.0, raising=False)
        yield

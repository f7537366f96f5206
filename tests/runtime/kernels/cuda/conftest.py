"""Interpreted kernels of these tests run without the interpreter's repeated patches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def _quick_interpreter() -> Iterator[None]:
    from tests.support.interpreted import patched_once

    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patched_once(patch)
        yield

"""SGLang on a CPU with the plug-in: artifacts, engines, and what Hugging Face answers.

An engine takes tens of seconds to start, so tests of one file share theirs. Its processes get the
stand-ins of :mod:`glmc_engines.sglang.cpu` by ``PYTHONPATH``, as a user's would.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pytest

from glmc_engines.sglang.cpu import STAND_INS
from tests.engines.sglang.support import Reference, artifact_of

os.environ.update(
    GLMC_ENGINE_PLATFORM="cpu",
    CUDA_VISIBLE_DEVICES="",
    OMP_NUM_THREADS="1",
    PYTHONPATH=os.pathsep.join([str(STAND_INS), os.environ.get("PYTHONPATH", "")]),
)
sys.path.insert(0, str(STAND_INS))


@pytest.fixture(scope="session")
def artifact() -> Callable[..., str]:
    """The artifact of a shipped model, compiled in float32 for the CPU."""
    return artifact_of


@pytest.fixture(scope="session")
def reference() -> Iterator[Callable[[str], Reference]]:
    """A shipped model in transformers."""
    made: dict[str, Reference] = {}

    def of(model: str) -> Reference:
        if model not in made:
            made[model] = Reference(model)
        return made[model]

    yield of

"""A toy artifact as an engine's process has it: attached, counted, in the engine's defaults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glmc_engines.core.errors import EngineVersionError
from glmc_engines.core.header import Header
from glmc_engines.core.served import Served, plain_defaults
from glmc_runtime.errors import RequestError
from tests.runtime.engine.outer.test_model import PROMPTS, close, memory, step
from tests.runtime.toy import HIDDEN, write_toy


@pytest.fixture
def served(tmp_path: Path) -> Served:
    header = Header.of(write_toy(tmp_path / "toy"))
    return Served.load(header, "named")


def test_each_step_is_a_replay(served: Served) -> None:
    assert not served.attached
    served.attach(memory())
    assert served.attached and not served.needs_host_lengths
    served.forward(step(0, 2))
    hidden = served.forward(step(2, 5))
    assert hidden.shape == (4, HIDDEN)
    close(served.logits(hidden[[2, 3]]), *PROMPTS)
    counters = served.counters
    assert counters.get("steps") == counters.get("replays", phase="prefill") == 2
    assert counters.get("tokens") == 8
    assert counters.get("serves") == 1


def test_a_step_before_the_cache_is_an_error(served: Served) -> None:
    with pytest.raises(EngineVersionError, match="before the plans have its KV cache"):
        served.forward(step(0, 2))
    with pytest.raises(EngineVersionError, match="before the plans have its KV cache"):
        served.logits(torch.zeros(1, HIDDEN))
    assert served.counters.get("steps") == 0


def test_a_step_that_is_refused_is_no_replay(served: Served) -> None:
    served.attach(memory())
    with pytest.raises(RequestError):
        served.forward(replace(step(0, 2), longest_query=5))
    assert served.counters.get("steps") == 1
    assert served.counters.get("replays") == served.counters.get("tokens") == 0


def test_an_engines_default_dtype_does_not_matter() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"), plain_defaults():
            made = torch.empty(1)
        assert (made.dtype, made.device.type) == (torch.float32, "cpu")
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(before)

"""What a step shares with the one before it is not looked at again, and nothing of it is stale."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import glmc_runtime
from glmc_runtime import Model, OuterStep
from glmc_runtime.engine.outer import model as module
from glmc_runtime.engine.outer.device_inputs import DeviceInputs
from glmc_runtime.errors import RequestError
from glmc_runtime.replay.step import ScheduledTokens
from tests.runtime.engine.outer.steps import outer_step
from tests.runtime.engine.outer.test_model import OWNED, memory
from tests.runtime.toy import BLOCK_SIZE, reference_logits

TEXTS = ([3, 14, 15], [6, 5])


@pytest.fixture
def model(toy_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """As on a device: a launch fills inputs, in Triton's interpreter, and hidden states of decode
    are kept for the caller."""
    pytest.importorskip("triton", minversion="3.2")  # as the target cuda asks for
    monkeypatch.setattr(module, "_fills_by_kernel", lambda device, target: True)
    monkeypatch.setattr(module, "_keeps_hidden", lambda device: True)
    return glmc_runtime.load_model(toy_path)


def prefill() -> OuterStep:
    rows = zip(TEXTS, OWNED, strict=True)
    chunks = [ScheduledTokens(tuple(text), 0, blocks) for text, blocks in rows]
    return outer_step(chunks, BLOCK_SIZE, 3)


def decode(new: tuple[int, ...], after: int = 0) -> OuterStep:
    rows = zip(TEXTS, OWNED, new, strict=False)
    chunks = [ScheduledTokens((token,), len(text) + after, blocks) for text, blocks, token in rows]
    return outer_step(chunks, BLOCK_SIZE, 3)


def written(step: OuterStep, values: OuterStep) -> OuterStep:
    """``step``, whose tensors hold the values of another one now."""
    for name in DECODE_TENSORS:
        getattr(step, name).copy_(getattr(values, name))
    return step


DECODE_TENSORS = ("token_ids", "positions", "slot_mapping", "block_tables", "context_lengths")


def logits(attached: Any, step: OuterStep) -> torch.Tensor:
    found: torch.Tensor = attached.logits(attached.forward(step, own=False), own=False)
    return found.clone()


def close(found: torch.Tensor, *texts: list[int]) -> None:
    expected = torch.stack([reference_logits(text) for text in texts])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_numbers_that_changed_in_place_are_read(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    attached = model.attach(memory())
    tables: list[tuple[int, ...]] = []
    write = DeviceInputs._write
    monkeypatch.setattr(
        DeviceInputs, "_write", lambda self, numbers: (tables.append(numbers), write(self, numbers))
    )
    attached.forward(prefill())
    step = decode((9, 8))
    close(logits(attached, step), [*TEXTS[0], 9], [*TEXTS[1], 8])
    count = len(tables)
    close(logits(attached, written(step, decode((4, 7), 1))), [*TEXTS[0], 9, 4], [*TEXTS[1], 8, 7])
    assert len(tables) == count  # the same tensors: the table was not even compared


def test_a_prefill_step_between_decode_steps(model: Model) -> None:
    attached = model.attach(memory())
    attached.forward(prefill())
    step, alone = decode((9, 8)), decode((4,))
    close(logits(attached, step), [*TEXTS[0], 9], [*TEXTS[1], 8])
    attached.forward(prefill())
    close(logits(attached, step), [*TEXTS[0], 9], [*TEXTS[1], 8])
    close(logits(attached, alone), [*TEXTS[0], 4])
    close(logits(attached, step), [*TEXTS[0], 9], [*TEXTS[1], 8])


def test_two_attached_models(model: Model) -> None:
    both = [model.attach(memory()) for _ in range(2)]
    step = decode((9, 8))
    for attached in both:
        attached.forward(prefill())
    for attached in (*both, *both):
        close(logits(attached, step), [*TEXTS[0], 9], [*TEXTS[1], 8])


def test_views_of_hidden_states_outlive_the_head(model: Model) -> None:
    """As for logprobs of a prompt, whose head runs after that of the sampled rows."""
    attached = model.attach(memory())
    attached.forward(prefill())
    hidden = attached.forward(decode((9, 8)), own=False)
    kept = hidden.clone()
    attached.logits(hidden[:1], own=False)
    assert torch.equal(hidden, kept)
    close(attached.logits(hidden), [*TEXTS[0], 9], [*TEXTS[1], 8])


def test_a_step_that_failed_is_filled_when_it_comes_again(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    attached = model.attach(memory())
    attached.forward(prefill())
    logits(attached, decode((1, 1)))
    step = decode((9, 8))
    write = DeviceInputs._write

    def fail(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(DeviceInputs, "_write", fail)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        attached.forward(step)
    monkeypatch.setattr(DeviceInputs, "_write", write)
    close(logits(attached, step), [*TEXTS[0], 9], [*TEXTS[1], 8])


def test_a_step_that_was_refused_is_refused_again(model: Model) -> None:
    attached = model.attach(memory())
    wrong = replace(decode((9, 8)), cu_seqlens_q=torch.tensor([0, 2, 2], dtype=torch.int32))
    for _ in range(2):
        with pytest.raises(RequestError, match="prefix sums"):
            attached.forward(wrong)
    with pytest.raises(RequestError, match="token_ids"):
        attached.forward(replace(wrong, token_ids=[9, 8]))  # type: ignore[arg-type]


def test_threads_share_a_model(model: Model) -> None:
    """Steps of one thread alternate with those of another, whose tensors are elsewhere."""
    attached = model.attach(memory())
    attached.forward(prefill())

    def run(step: OuterStep, texts: list[list[int]]) -> None:
        for _ in range(12):
            close(attached.step(step), *texts)

    with ThreadPoolExecutor(2) as pool:
        one, two = [*TEXTS[0], 9], [*TEXTS[1], 8]
        running = [
            pool.submit(run, decode((9,)), [one]),
            pool.submit(run, decode((9, 8)), [one, two]),
        ]
        for each in running:
            each.result()


def test_nothing_of_it_needs_triton(toy_path: Path) -> None:
    """Targets other than cuda, and Kunlun's torch, have none."""
    program = """
import sys
sys.modules["triton"] = None
import glmc_runtime
from glmc_runtime import AttachedModel
from tests.runtime.engine.outer.test_model import memory, step
model = glmc_runtime.load_model(sys.argv[1]).attach(memory())
assert len(model.step(step(0, 2))) == 2
"""
    ran = subprocess.run(
        [sys.executable, "-c", program, str(toy_path)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]

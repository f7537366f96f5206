"""A toy artifact over the cache of an outer engine: hidden states, logits, refusals, graphs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import glmc_runtime
from glmc_runtime import KVTensors, Model
from glmc_runtime.engine import loaded as loaded_module
from glmc_runtime.engine.outer.model import AttachedModel
from glmc_runtime.errors import CapacityError, RequestError
from glmc_runtime.replay.cache import KVCache
from glmc_runtime.replay.step import ScheduledTokens
from tests.runtime.engine.outer.steps import outer_step
from tests.runtime.replay.test_phase import FakeGraphs
from tests.runtime.toy import (
    BLOCK_SIZE,
    BLOCKS_PER_SEQUENCE,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    VOCABULARY,
    reference_logits,
    toy_weights,
)

LAYOUT = "blocks tokens heads dim"
BLOCKS = 12
PROMPTS = ([3, 14, 15, 9, 2], [6, 5, 3])
OWNED = ([4, 1], [7, 2])


def memory(blocks: int = BLOCKS, size: int = BLOCK_SIZE) -> KVTensors:
    tensors = tuple(torch.zeros(blocks, size, HEADS, HEAD_DIM) for _ in range(2))
    return KVTensors([tensors], LAYOUT, scratch_block=blocks - 1)  # type: ignore[list-item]


@pytest.fixture
def model(toy_path: Path) -> Model:
    return glmc_runtime.load_model(toy_path)


def chunks(first: int, last: int, extra: tuple[int, ...] = ()) -> list[ScheduledTokens]:
    """Tokens ``first`` to ``last`` of both prompts, as far as they go."""
    texts = [[*prompt, *extra] for prompt in PROMPTS]
    return [
        ScheduledTokens(tuple(text[first:last]), first, blocks)
        for text, blocks in zip(texts, OWNED, strict=True)
        if text[first:last]
    ]


def step(first: int, last: int, size: int = BLOCK_SIZE) -> Any:
    return outer_step(chunks(first, last), size, BLOCKS_PER_SEQUENCE)


def close(logits: torch.Tensor, *texts: list[int]) -> None:
    expected = torch.stack([reference_logits(text) for text in texts])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_without_capture_there_is_no_device_graph(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``--enforce-eager`` of an engine asks for; the numbers are the same."""
    graphs = FakeGraphs()
    choose = loaded_module.graphs_for
    monkeypatch.setattr(
        loaded_module,
        "graphs_for",
        lambda device, called: choose(device, called) if called else graphs,
    )
    plain = model.attach(memory(), capture=False)
    hidden = plain.forward(step(0, 2))
    assert graphs.captured == [] and graphs.replays == 0
    captured = model.attach(memory())
    assert graphs.captured != []
    assert torch.equal(captured.forward(step(0, 2)), hidden)


def test_hidden_states_and_logits_of_chosen_rows(model: Model) -> None:
    """In two chunks; rows in any order, more of them than the largest decode bucket."""
    attached = model.attach(memory())
    hidden = attached.forward(step(0, 2))
    assert hidden.shape == (4, HIDDEN)
    close(attached.logits(hidden[[3, 1]]), PROMPTS[1][:2], PROMPTS[0][:2])
    hidden = attached.forward(step(2, 5))
    rows = [2, 0, 1, 3, 2, 2]
    texts = [PROMPTS[0][:3], PROMPTS[0][:4], PROMPTS[0], PROMPTS[1]]
    close(attached.logits(hidden[rows]), *(texts[row] for row in rows))


def test_sequences_are_padded_where_there_are_graphs(
    toy_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three sequences run as four, the last without a token; and nothing is counted twice."""
    monkeypatch.setattr(loaded_module, "graphs_for", lambda device, emulated: FakeGraphs())
    attached = glmc_runtime.load_model(toy_path).attach(memory())
    assert not attached.statistics.to_json()["buckets"]
    third = ScheduledTokens((2, 7), 0, [9])
    given = outer_step([*chunks(0, 3), third], BLOCK_SIZE, BLOCKS_PER_SEQUENCE)
    _, padded = attached._padded(given)
    assert (padded.sizes["sequences"], padded.real["sequences"]) == (4, 3)
    close(attached.step(given), PROMPTS[0][:3], PROMPTS[1], [2, 7])
    assert sum(row["steps"] for row in attached.statistics.to_json()["buckets"]) == 1


def test_a_step_gives_the_logits_of_each_sequence(model: Model) -> None:
    attached = model.attach(memory())
    close(attached.step(step(0, 3)), PROMPTS[0][:3], PROMPTS[1])
    decode = outer_step(
        [ScheduledTokens((9,), 3, OWNED[0]), ScheduledTokens((8,), 3, OWNED[1])], BLOCK_SIZE, 3
    )
    logits = attached.step(decode)
    close(logits, [*PROMPTS[0][:3], 9], [*PROMPTS[1], 8])
    assert attached.statistics.to_json()["buckets"][0]["phase"] == "decode"
    hidden = attached.forward(decode)
    torch.testing.assert_close(attached.logits(hidden), logits)
    torch.testing.assert_close(hidden @ toy_weights()["head"][:VOCABULARY].T, logits)


def test_what_is_returned_is_the_callers(model: Model) -> None:
    attached = model.attach(memory())
    hidden, logits = attached.forward(step(0, 3)), attached.step(step(0, 3))
    before = hidden.clone(), logits.clone()
    other = [chunk._replace(tokens=(1, 2, 3)) for chunk in chunks(0, 3)]
    attached.step(outer_step(other, BLOCK_SIZE, BLOCKS_PER_SEQUENCE))  # in the same memory
    assert torch.equal(hidden, before[0]) and torch.equal(logits, before[1])
    hidden += 1  # and it may be changed in place, outside of inference mode
    assert not hidden.is_inference() and not logits.is_inference()


def test_only_owned_blocks_and_the_scratch_block_are_written(model: Model) -> None:
    kv = memory()
    attached = model.attach(kv)
    attached.step(step(0, 3))
    attached.step(outer_step(chunks(3, 4), BLOCK_SIZE, 4))
    written = {OWNED[0][0], OWNED[1][0], BLOCKS - 1}
    for tensor in kv.layers[0]:
        nonzero = set(tensor.flatten(1).any(1).nonzero().flatten().tolist())
        assert nonzero == written


def test_no_cache_is_allocated(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[KVCache] = []
    build = KVCache.__init__

    def watched(self: KVCache, *values: Any) -> None:
        build(self, *values)
        made.append(self)

    monkeypatch.setattr(KVCache, "__init__", watched)
    kv = memory()
    model.attach(kv)
    (cache,) = made
    ours = sorted(tensor.data_ptr() for tensor in cache.tensors.values())
    assert ours == sorted(tensor.data_ptr() for tensor in kv.layers[0])


@pytest.mark.parametrize("size", [2, 8, 16])
def test_another_block_size(model: Model, size: int) -> None:
    attached = model.attach(memory(size=size))
    close(attached.step(step(0, 3, size)), PROMPTS[0][:3], PROMPTS[1])
    later = [ScheduledTokens((9,), 3, OWNED[0])]
    close(attached.step(outer_step(later, size, 2)), [*PROMPTS[0][:3], 9])
    assert model.manifest.cache.block_size == BLOCK_SIZE
    assert attached.manifest.cache.block_size == size


def test_a_model_may_be_attached_twice(model: Model) -> None:
    first, second = model.attach(memory()), model.attach(memory(size=8))
    for attached, size in ((first, BLOCK_SIZE), (second, 8), (first, BLOCK_SIZE)):
        close(attached.step(step(0, 3, size)), PROMPTS[0][:3], PROMPTS[1])


def test_kernels_that_take_packed_caches_say_so(model: Model) -> None:
    whole = torch.zeros(BLOCKS, 2, BLOCK_SIZE, HEADS, HEAD_DIM)
    with pytest.raises(RequestError, match=r"test\.cache_write reads a KV cache in its own"):
        model.attach(KVTensors([whole], "blocks kv tokens heads dim"))


def test_steps_that_are_refused(model: Model) -> None:
    attached = model.attach(memory())
    good = step(0, 3)
    with pytest.raises(CapacityError, match="prefill step of 17 rows"):
        many = [ScheduledTokens((1,) * 17, 0, [1, 2, 3, 4, 5])]
        attached.step(outer_step(many, BLOCK_SIZE, 5))
    with pytest.raises(CapacityError, match="5 sequences"):
        attached.step(outer_step([ScheduledTokens((1, 2), 0, [1])] * 5, BLOCK_SIZE, 5))
    with pytest.raises(CapacityError, match="decode step of 5 rows"):
        attached.step(outer_step([ScheduledTokens((1,), 0, [1])] * 5, BLOCK_SIZE, 5))
    with pytest.raises(RequestError, match="no such number of tokens"):
        attached.step(replace(good, context_lengths=torch.tensor([61, 3])))
    for rows in (torch.zeros(0, HIDDEN), torch.zeros(HIDDEN), torch.zeros(2, HIDDEN + 1)):
        with pytest.raises(RequestError, match="no rows of hidden states"):
            attached.logits(rows)


def test_body_and_head_are_device_graphs_of_their_own(
    toy_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[FakeGraphs] = []

    def another(device: torch.device, emulated: bool) -> FakeGraphs:
        made.append(FakeGraphs())
        return made[-1]

    monkeypatch.setattr(loaded_module, "graphs_for", another)
    model = glmc_runtime.load_model(toy_path)
    assert not made
    model.attach(memory())  # its graphs are gone, and with them their memory
    attached: AttachedModel = model.attach(memory())
    first, graphs = made
    # Before attention, after it, and the head, in three buckets; of prefill no head, since it
    # depends on the sequences of a step.
    assert first.captured == graphs.captured == [6, 1, 1] * 3 + [6, 1] * 3
    graphs.replays = 0  # kernels were warmed with them
    hidden = attached.forward(step(0, 3))
    assert graphs.replays == 2
    close(attached.logits(hidden[2:3]), PROMPTS[0][:3])
    graphs.replays = 0
    decode = outer_step(chunks(3, 4), BLOCK_SIZE, 4)
    hidden = attached.forward(decode)
    assert graphs.replays == 2
    close(attached.logits(hidden), PROMPTS[0][:4])
    assert graphs.replays == 3
    attached.step(decode)
    assert graphs.replays == 6


def test_segments_are_timed_where_that_was_asked_for(toy_path: Path) -> None:
    attached = glmc_runtime.load_model(toy_path, timing=True).attach(memory())
    attached.logits(attached.forward(outer_step(chunks(0, 1), BLOCK_SIZE, 4)))
    segments = attached.statistics.to_json()["segments"]
    assert [(one["phase"], one["segment"], one["count"]) for one in segments] == [
        ("decode", number, 1) for number in range(4)
    ]

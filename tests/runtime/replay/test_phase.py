"""Replay: nothing allocated, nothing bound again, errors with their call, captured segments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import glmc_runtime
from glmc_runtime.engine import loaded as loaded_module
from glmc_runtime.errors import GlmcError, PlanError
from glmc_runtime.format.dependence import Symbols
from glmc_runtime.format.phases import DECODE, PHASES, PREFILL, PhaseKey
from glmc_runtime.generate.session import Session
from glmc_runtime.kernels import Thunk
from glmc_runtime.replay.step import Step
from tests.runtime.counting import FreshStorage
from tests.runtime.toy import reference_greedy, reference_logits


def test_the_counter_sees_what_it_must_see() -> None:
    x, out = torch.ones(4, 4), torch.empty(4, 4)
    with FreshStorage() as counter:
        torch.mm(x, x, out=out)
        x.view(16)[3:].add_(1)
        out.copy_(x)
    assert counter.fresh == []
    assert counter.total >= 4
    with FreshStorage() as counter:
        torch.mm(x, x)
        torch.empty(3)
        x.contiguous().clone()
    assert len(counter.fresh) == 3


@pytest.mark.parametrize("number", [1, 3, 4])
def test_a_replayed_decode_step_allocates_nothing(
    session: Session, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = [session.sequence([row + 1] * 6) for row in range(number)]
    session.prefill(sequences)
    session.decode(sequences, [1] * number)  # binds
    binder = session._replays[DECODE.key]._binder
    bound = binder.bound
    inside: list[list[str]] = []
    replay = session._replays[DECODE.key].run

    def counted(step: Step) -> torch.Tensor:
        before = len(counter.fresh)
        logits = replay(step)
        inside.append(counter.fresh[before:])
        return logits

    monkeypatch.setattr(session._replays[DECODE.key], "run", counted)
    with FreshStorage() as counter:
        for token in range(3):
            session.decode(sequences, [token] * number)
    assert inside == [[], [], []]
    assert counter.fresh == ["aten.clone.default"] * 3  # afterwards: the caller's own logits
    assert counter.total > 30  # it did see the kernels
    assert binder.bound == bound  # and no view was computed again


def test_the_first_step_of_a_bucket_binds_and_the_counter_sees_it(session: Session) -> None:
    sequence = session.sequence([1, 2])
    session.prefill([sequence])
    with FreshStorage() as counter:
        session.decode([sequence], [1])
    assert counter.fresh  # the toy's attention makes its temporaries when it is bound


def test_another_count_in_the_same_bucket_binds_only_what_sees_it(session: Session) -> None:
    binder = session._replays[DECODE.key]._binder
    sequences = [session.sequence([row + 1] * 3) for row in range(4)]
    session.prefill(sequences)
    session.decode(sequences, [1] * 4)
    bound = binder.bound
    session.decode(sequences[:3], [1] * 3)
    assert binder.bound == bound + 1  # the attention, whose arguments are real


def test_prefill_bindings_are_forgotten_in_time(
    toy_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PHASES, PREFILL.name, replace(PREFILL, bindings_kept=2))
    session = glmc_runtime.load(toy_path)
    for length in (1, 2, 3, 5, 6, 7, 9, 10, 1):
        sequence = session.sequence([4] * length)
        logits = session.prefill([sequence])
        torch.testing.assert_close(logits[0], reference_logits([4] * length), rtol=1e-5, atol=1e-4)
        session.release(sequence)
    replay = session._replays[PREFILL.key]
    assert len(replay._steps) == 2
    assert max(len(thunks) for thunks in replay._binder._thunks) == 2


def test_the_prefill_step_used_last_is_kept(
    toy_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PHASES, PREFILL.name, replace(PREFILL, bindings_kept=2))
    session = glmc_runtime.load(toy_path)
    for length in (5, 6, 5, 7):
        session.prefill([session.sequence([4] * length)])
    kept = [key[2] for key in session._replays[PREFILL.key]._steps]
    assert kept == [5, 7]


def _break_call(session: Session, phase: str, position: int, error: Exception) -> None:
    """Make one bound call of every step of a phase fail."""
    binder = session._replays[PhaseKey(phase)]._binder
    bind_call = binder._bind_call

    def broken(place: int, symbols: Symbols) -> Thunk:
        if place == position:

            def fail() -> None:
                raise error

            return fail
        return bind_call(place, symbols)

    binder._bind_call = broken  # type: ignore[method-assign]


def test_a_failing_kernel_is_named_with_its_node_and_layer(session: Session) -> None:
    _break_call(session, "prefill", 6, RuntimeError("boom"))
    sequence = session.sequence([1, 2])
    with pytest.raises(PlanError) as caught:
        session.prefill([sequence])
    text = str(caught.value)
    assert "boom" in text
    assert "test.prefill_attention" in text
    assert "layer 0" in text
    assert "model.layers.0" in text
    assert sequence.cached == 0


def test_a_failed_decode_leaves_the_sequence_as_it_was(session: Session) -> None:
    sequence = session.sequence([1, 2])
    session.prefill([sequence])
    _break_call(session, "decode", 3, ValueError("bad"))
    with pytest.raises(GlmcError, match="bad"):
        session.decode([sequence], [5])
    assert (sequence.tokens, sequence.cached) == ([1, 2], 2)


def test_time_is_taken_per_segment_only_when_asked(toy_path: Path) -> None:
    timed = glmc_runtime.load(toy_path, timing=True)
    timed.generate([[1, 2, 3]], max_new_tokens=3, ignore_eos=True)
    rows = timed.statistics.to_json()["segments"]
    decode = [row for row in rows if row["phase"] == "decode"]
    assert [row["segment"] for row in decode] == [0, 1, 2]
    assert all(row["count"] == 2 and row["seconds"] > 0 for row in decode)
    plain = glmc_runtime.load(toy_path)
    plain.generate([[1, 2, 3]], max_new_tokens=3, ignore_eos=True)
    assert plain.statistics.to_json()["segments"] == []


class FakeGraphs:
    """A device graph as a list: notes the order of captures and counts replays."""

    on_device = True

    def __init__(self) -> None:
        self.captured: list[int] = []
        self.replays = 0

    def capture(self, thunks: tuple[Thunk, ...]) -> tuple[Thunk, ...]:
        for thunk in thunks:
            thunk()
        self.captured.append(len(thunks))

        def replay() -> None:
            self.replays += 1
            for thunk in thunks:
                thunk()

        return (replay,)

    def wait(self) -> None: ...


@pytest.fixture
def fake_graphs(monkeypatch: pytest.MonkeyPatch) -> FakeGraphs:
    graphs = FakeGraphs()
    choose: Callable[[torch.device, bool], FakeGraphs] = lambda device, emulated: graphs  # noqa: E731
    monkeypatch.setattr(loaded_module, "graphs_for", choose)
    return graphs


def test_captured_segments_replay_between_attention_calls(
    toy_path: Path, fake_graphs: FakeGraphs
) -> None:
    session = glmc_runtime.load(toy_path)
    assert fake_graphs.captured == [6, 2] * 3  # two segments for each of three buckets
    captures = session.statistics.to_json()["captures"]
    assert [(item["bucket"], item["graphs"]) for item in captures] == [(1, 2), (2, 2), (4, 2)]
    prompts = [[3, 14, 15], [9, 2, 6, 5, 3, 5], [1]]
    completions = session.generate(prompts, max_new_tokens=6, ignore_eos=True)
    assert [item.tokens for item in completions] == [reference_greedy(p, 6) for p in prompts]
    assert fake_graphs.replays == 2 * 5

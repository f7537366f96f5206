"""A rank follows its messages; on a device it enqueues steps while answers are waited for."""

from __future__ import annotations

import json
import os
import socket
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic, perf_counter_ns, sleep

import torch

import glmc_runtime
from glmc_runtime.engine.assemble import Machine, assemble
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.engine.ranks.channel import Channel
from glmc_runtime.engine.ranks.follow import Follower, symbols_of
from glmc_runtime.engine.ranks.messages import Encoder, Kind, number_of
from glmc_runtime.engine.ranks.recordings import recording_from_bytes
from glmc_runtime.engine.ranks.shared import SharedLogits, phases_of
from glmc_runtime.loading.loader import load_artifact
from glmc_runtime.replay.step import ScheduledTokens, Step

PROMPT = [7, 3, 9]


class LateGreedy:
    """Steps whose tokens come when they are let."""

    def __init__(self) -> None:
        self.launched = 0
        self.let = threading.Event()

    def launch(self, step: Step, ahead: bool) -> LateGreedy:
        self.launched += 1
        return self

    def read(self, rows: int) -> list[int]:
        self.let.wait(10)
        return [40 + self.launched] * rows


class Rank:
    """The controller's side of a follower in a thread, and the logits that both share."""

    def __init__(
        self, path: Path, channel: Channel, machine: Machine, logits: SharedLogits
    ) -> None:
        self.channel, self.machine, self.logits = channel, machine, logits
        self.phases = phases_of(load_artifact(path).manifest)
        self.encoder = Encoder(symbols_of(self.phases))
        self.answered = 0

    def answer(self) -> bytes:
        number, answer = number_of(self.channel.receive())
        assert number == self.answered
        self.answered += 1
        return answer

    def phase(self, name: str) -> int:
        return self.phases.index(name)


@contextmanager
def following(path: Path, **changes: object) -> Iterator[Rank]:
    artifact = load_artifact(path)
    machine = replace(assemble(artifact, LoadOptions()), **changes)  # type: ignore[arg-type]
    descriptor = os.memfd_create("logits")
    here, there = (SharedLogits(artifact.manifest, artifact.plans, descriptor) for _ in range(2))
    os.close(descriptor)
    ours, theirs = map(Channel, socket.socketpair())
    follower = Follower(machine, phases_of(artifact.manifest), theirs, there)
    thread = threading.Thread(target=follower.follow)
    thread.start()
    try:
        yield Rank(path, ours, machine, here)
    finally:
        ours.send(Encoder.numbers(Kind.STOP))
        thread.join(10)
        assert not thread.is_alive()


def test_logits_are_shared_and_blocks_copied(greedy_path: Path) -> None:
    session = glmc_runtime.load(greedy_path)
    expected = session.prefill([session.sequence(PROMPT)])
    with following(greedy_path) as rank:
        step = Step([ScheduledTokens(PROMPT, 0, [1])], 4, 1, 4)
        rank.channel.send(rank.encoder.step(Kind.RUN, rank.phase("prefill"), step))
        assert rank.answer() == b""
        assert torch.equal(rank.logits.rows("prefill", 1), expected)
        rank.channel.send(Encoder.numbers(Kind.COPY, 1, 2))
        more = Step([ScheduledTokens([5], 3, [2])], 1, 1, 4)
        rank.channel.send(rank.encoder.step(Kind.GREEDY, rank.phase("decode"), more))
        (token,) = array("q", rank.answer())
        sequence = session.sequence([*PROMPT, 5])
        assert token == int(session.prefill([sequence]).argmax())
        rank.channel.send(Encoder.numbers(Kind.STATISTICS))
        counted = json.loads(rank.answer())["buckets"]
        assert [row["steps"] for row in counted] == [1, 1]


def test_on_a_device_a_step_is_enqueued_while_another_is_waited_for(greedy_path: Path) -> None:
    late = LateGreedy()
    with following(greedy_path, device=torch.device("meta"), greedy=lambda rows: late) as rank:
        step = Step([ScheduledTokens([5], 0, [1])], 1, 1, 4)
        for ahead in (False, True):
            message = rank.encoder.step(Kind.LAUNCH, rank.phase("decode"), step, 1, ahead)
            rank.channel.send(message)
        ends = monotonic() + 10
        while late.launched < 2:
            assert monotonic() < ends
            sleep(0.01)
        rank.channel.send(Encoder.numbers(Kind.FREE, 1))
        late.let.set()
        assert [list(array("q", rank.answer())) for _ in range(2)] == [[42], [42]]


def test_steps_are_timed_from_an_origin_until_times_are_asked_for(greedy_path: Path) -> None:
    with following(greedy_path) as rank:
        begun = perf_counter_ns()
        rank.channel.send(Encoder.numbers(Kind.BEGIN_TIMES, begun))
        step = Step([ScheduledTokens(PROMPT, 0, [1])], 4, 1, 4)
        for _ in range(2):
            rank.channel.send(rank.encoder.step(Kind.RUN, rank.phase("prefill"), step))
            rank.answer()
        rank.channel.send(Encoder.numbers(Kind.END_TIMES, 5))
        recording = recording_from_bytes(rank.answer())
        took = (perf_counter_ns() - begun) / 1000
        first, second = recording.steps
        assert (first.number, first.phase, first.sizes.tokens) == (0, "prefill", 3)
        assert 0 < first.begin < first.end <= second.begin < second.end < took
        calls = len(rank.machine.phases[0]._plan.calls)
        assert [call.step for call in recording.calls].count(1) >= calls
        assert all(phase.timer is None for phase in rank.machine.phases)


def test_a_rank_that_has_no_logits_numbers_its_times_as_it_was_asked(greedy_path: Path) -> None:
    artifact = load_artifact(greedy_path)
    ours, theirs = map(Channel, socket.socketpair())
    machine = assemble(artifact, LoadOptions())
    follower = Follower(machine, phases_of(artifact.manifest), theirs, None)
    for kind, number in ((Kind.BEGIN_TIMES, 0), (Kind.END_TIMES, 5), (Kind.STOP, 0)):
        ours.send(Encoder.numbers(kind, number))
    follower.follow()
    number, answer = number_of(ours.receive())
    assert number == 5 and recording_from_bytes(answer).steps == ()

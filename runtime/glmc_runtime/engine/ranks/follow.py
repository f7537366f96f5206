"""A rank does what it is told: runs steps, copies blocks. Rank 0 answers."""

from __future__ import annotations

import json
import os
import queue
import threading
import traceback
from array import array
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from glmc_runtime.engine.assemble import Machine
from glmc_runtime.engine.greedy_tokens import GreedyLauncher
from glmc_runtime.engine.own_times import OwnTimes
from glmc_runtime.engine.ranks.messages import Decoder, Kind, Numbers, StepMessage, numbered
from glmc_runtime.engine.ranks.recordings import recording_to_bytes
from glmc_runtime.engine.ranks.shared import SharedLogits
from glmc_runtime.format.phases import phase_of

Answer = Callable[[], bytes]


class Messages(Protocol):
    """Where messages come from, and where answers go."""

    def receive(self) -> bytes: ...
    def send(self, message: bytes) -> None: ...


class Follower:
    """Follows the messages of a channel. With ``logits`` it is rank 0, which answers."""

    def __init__(
        self,
        machine: Machine,
        phases: Sequence[str],
        channel: Messages,
        logits: SharedLogits | None,
    ) -> None:
        self._machine = machine
        self._phases = phases
        self._channel = channel
        self._logits = logits
        self._replays = {key.phase: replay for key, replay in machine.replays.items()}
        self._decoder = Decoder(symbols_of(phases))
        self._launchers: dict[int, GreedyLauncher] = {}
        self._times: OwnTimes | None = None
        self._answered = 0
        self._answers: queue.SimpleQueue[Answer] | None = None
        if logits is not None and machine.device.type != "cpu":
            # A step is enqueued while the tokens of the one before it are waited for.
            self._answers = queue.SimpleQueue()
            threading.Thread(target=self._send_answers, name="glmc answers", daemon=True).start()

    @torch.inference_mode()
    def follow(self) -> None:
        """Follow until :attr:`Kind.STOP`; raises what a step raises, and
        :class:`ChannelClosedError` when nobody is there any longer."""
        while True:
            message = self._decoder.read(self._channel.receive())
            if isinstance(message, StepMessage):
                with self._machine.stream_order.enter():
                    self._step(message)
            elif message.kind is Kind.COPY:
                with self._machine.stream_order.enter():
                    self._machine.cache.copy_block(message.first, message.second)
            elif message.kind is Kind.FREE:
                self._launchers.pop(message.first, None)
            elif message.kind is Kind.STATISTICS:
                self._answer(lambda: json.dumps(self._machine.statistics.to_json()).encode())
            elif message.kind in (Kind.BEGIN_TIMES, Kind.END_TIMES):
                self._time(message)
            else:
                return

    def _time(self, message: Numbers) -> None:
        if message.kind is Kind.BEGIN_TIMES:
            self._times = OwnTimes(self._machine, message.first)
            self._times.begin()
            return
        assert self._times is not None
        (recording,), self._times = self._times.end(), None
        said = recording_to_bytes(recording)
        if self._logits is not None:
            self._answer(lambda: said)
        else:
            self._channel.send(numbered(message.first, said))

    def _step(self, message: StepMessage) -> None:
        phase = self._phases[message.phase]
        replay, step = self._replays[phase], message.step
        if message.kind is Kind.RUN:
            logits = replay.run(step)
            if self._logits is not None:
                self._logits.rows(phase, len(logits)).copy_(logits)
                self._answer(bytes)
        elif message.kind is Kind.GREEDY:
            tokens = replay.run_greedy(step)
            if self._logits is not None:
                ids = array("q", tokens.tolist()).tobytes()
                self._answer(lambda: ids)
        else:
            launcher = self._launchers.get(message.launcher)
            if launcher is None:
                rows = self._machine.decode_buckets.choose(len(step.chunks))
                launcher = self._launchers[message.launcher] = self._machine.greedy(rows)
            result, count = launcher.launch(step, message.ahead), len(step.chunks)
            self._answer(lambda: array("q", result.read(count)).tobytes())

    def _answer(self, answer: Answer) -> None:
        if self._logits is None:
            return
        if self._answers is None:
            self._send(answer())
        else:
            self._answers.put(answer)

    def _send(self, answer: bytes) -> None:
        """Always by one and the same thread."""
        number, self._answered = self._answered, self._answered + 1
        self._channel.send(numbered(number, answer))

    def _send_answers(self) -> None:
        assert self._answers is not None
        try:
            while True:
                self._send(self._answers.get()())
        except BaseException:  # noqa: BLE001 - of a device or of the channel: the rank is over
            traceback.print_exc()
            os._exit(1)  # the other thread waits for messages that nobody sends any longer


def symbols_of(phases: Sequence[str]) -> list[list[str]]:
    """For each phase its symbols beside tokens and sequences, in one order on all ranks."""
    usual = ("tokens", "sequences")
    return [[name for name in phase_of(phase).symbols if name not in usual] for phase in phases]

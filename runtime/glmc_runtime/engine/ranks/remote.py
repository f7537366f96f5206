"""The controller's machine: replays and a cache whose memory is that of the ranks."""

from __future__ import annotations

import atexit
import itertools
import json
import os
import threading
import weakref
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from glmc_runtime.engine.assemble import Machine
from glmc_runtime.engine.exclusive import Exclusive
from glmc_runtime.engine.ranks.channel import Channel, ChannelClosedError
from glmc_runtime.engine.ranks.follow import symbols_of
from glmc_runtime.engine.ranks.launch import Ends
from glmc_runtime.engine.ranks.messages import Encoder, Kind, number_of
from glmc_runtime.engine.ranks.shared import SharedLogits, phases_of
from glmc_runtime.engine.ranks.times import RanksTimes
from glmc_runtime.engine.ranks.watch import Watch
from glmc_runtime.errors import PlanError, RankError, RequestError
from glmc_runtime.format.cache import CacheSpec
from glmc_runtime.format.phases import DECODE, PREFILL
from glmc_runtime.format.plan import Call, PhasePlan
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.replay.buckets import Buckets
from glmc_runtime.replay.cache import BlockAllocator
from glmc_runtime.replay.device_order import StreamOrder
from glmc_runtime.replay.statistics import Statistics, Time
from glmc_runtime.replay.step import Step

HOST = torch.device("cpu")


class Ticket:
    """An answer that is to come: answers come in the order of what was asked, and are numbered."""

    def __init__(self) -> None:
        self.number = -1
        self.answer: bytes | None = None


class Controller:
    """Tells all ranks the same, in the same order, and reads the answers of rank 0.

    One thread at a time uses it; any may close it. It ends the ranks when it is closed or
    collected. A step that is broken off, by Ctrl-C at any point, leaves ranks and controller in
    step, or ends the ranks.
    """

    def __init__(self, watch: Watch, ends: list[Ends], encoder: Encoder) -> None:
        self._encoder = encoder
        self.watch = watch
        self._channels = [each.steps for each in ends]
        self._pending: deque[Ticket] = deque()
        self._asked = 0
        self._freed: deque[int] = deque()
        self._numbers = itertools.count(1)
        self._ending = Ending(watch, ends)
        self.close = self._ending.close
        # What collects garbage must wait for nothing; at the program's end there is time.
        weakref.finalize(self, self._ending.ask).atexit = False
        atexit.register(self._ending.close)

    def tell(self, message: bytes, ticket: Ticket | None = None) -> None:
        """A message, without an answer unless there is a ``ticket`` for it; raises what ended the
        ranks."""
        while self._freed:
            self._send(Encoder.numbers(Kind.FREE, self._freed.popleft()), None)
        self._send(message, ticket)

    def ask(self, message: bytes) -> Ticket:
        ticket = Ticket()
        self.tell(message, ticket)
        return ticket

    def ask_step(
        self, kind: Kind, phase: int, step: Step, launcher: int = 0, ahead: bool = False
    ) -> Ticket:
        """The same for a step of a phase."""
        try:
            return self.ask(self._encoder.step(kind, phase, step, launcher, ahead))
        except BaseException:
            self._encoder.forget()
            raise

    def wait(self, ticket: Ticket) -> bytes:
        """The answer; raises what ended the ranks."""
        while ticket.answer is None:
            try:
                number, answer = number_of(self._channels[0].receive())
            except ChannelClosedError:
                raise self.watch.failure() from None
            first = self._pending[0]
            if number != first.number:  # Ctrl-C has come between an answer and its ticket
                self.watch.kill()
                raise RankError(
                    "an answer of rank 0 was lost when a step was broken off",
                    expected=f"answer {first.number}",
                    found=f"answer {number}",
                    remedy="load the artifact again",
                )
            first.answer = answer
            self._pending.popleft()
        return ticket.answer

    def ask_all(self, kind: Kind) -> list[bytes]:
        """The answers of all ranks, in their order, to what each of them answers. Broken off, it
        ends the ranks: one whose answer nobody hears would read no further message."""
        number = next(self._numbers)
        ticket = self.ask(Encoder.numbers(kind, number))
        try:
            return [self.wait(ticket), *(self._hear(each, number) for each in self._channels[1:])]
        except BaseException:
            self.watch.kill()
            raise

    def _hear(self, channel: Channel, number: int) -> bytes:
        """The answer of a rank other than 0."""
        try:
            found, answer = number_of(channel.receive())
        except ChannelClosedError:
            raise self.watch.failure() from None
        if found != number:
            raise RankError(
                "a rank has answered another question",
                expected=f"answer {number}",
                found=f"answer {found}",
                remedy="load the artifact again",
            )
        return answer

    def new_launcher(self) -> int:
        return next(self._numbers)

    def free_launcher(self, number: int) -> None:
        """May be called by whatever collects garbage: told with the next message."""
        self._freed.append(number)

    def _send(self, message: bytes, ticket: Ticket | None) -> None:
        if self.watch.over:
            raise self.watch.failure()
        try:
            with self._ending.sending:
                if ticket is not None:
                    ticket.number, self._asked = self._asked, self._asked + 1
                    self._pending.append(ticket)
                for channel in self._channels:
                    channel.send(message)
        except ChannelClosedError:
            raise self.watch.failure() from None
        except BaseException:  # some have got it and others have not
            self.watch.kill()
            raise


class Ending:
    """Ends ranks once, in the process that has started them: a fork has not. ``sending`` keeps the
    last message from getting into another one."""

    def __init__(self, watch: Watch, ends: list[Ends]) -> None:
        # One that its thread may take again: a handler of signals may close in a message's middle,
        # which ends the ranks all the same.
        self.sending = threading.RLock()
        self._watch = watch
        self._ends = ends
        self._process = os.getpid()

    def ask(self) -> None:
        """Tell them to end; those that do not are killed by the watch."""
        if os.getpid() == self._process:
            self._watch.stop(self._say_stop)
            atexit.unregister(self.close)

    def close(self) -> None:
        """The same, and wait until they have."""
        if os.getpid() == self._process:
            self.ask()
            self._watch.join()
            for each in self._ends:
                each.steps.close()

    def _say_stop(self) -> None:
        with self.sending:
            for each in self._ends:
                each.steps.send(Encoder.numbers(Kind.STOP))


class RemoteReplay:
    """A phase that the ranks run."""

    def __init__(
        self,
        controller: Controller,
        number: int,
        plan: PhasePlan,
        logits: SharedLogits,
        statistics: Statistics,
    ) -> None:
        self.number = number
        self._controller = controller
        self._plan = plan
        self._logits = logits
        self._statistics = statistics
        self._bucket = plan.phase.bucket

    @property
    def has_greedy(self) -> bool:
        return self._plan.greedy is not None

    def run(self, step: Step) -> torch.Tensor:
        """Logits of the real sequences: a view that the next step overwrites."""
        self.count(step)
        self._controller.wait(self._controller.ask_step(Kind.RUN, self.number, step))
        return self._logits.rows(self._plan.name, step.real[self._plan.phase.output[0]])

    def run_greedy(self, step: Step) -> torch.Tensor:
        if not self.has_greedy:
            raise PlanError(f"the {self._plan.name} plan has no greedy tokens")
        self.count(step)
        answer = self._controller.wait(self._controller.ask_step(Kind.GREEDY, self.number, step))
        return torch.tensor(array("q", answer).tolist(), dtype=torch.int64)

    def trace(self, step: Step) -> Iterator[tuple[Call, dict[str, Any]]]:
        raise RequestError(
            "the calls of an artifact of several ranks can't be followed from outside of them",
            remedy="run each rank under torchrun, where each process has its own calls",
        )

    def count(self, step: Step) -> None:
        bucket = self._bucket
        self._statistics.count_step(self._plan.name, step.sizes[bucket], step.real[bucket])


class _RemoteResult:
    def __init__(self, controller: Controller, ticket: Ticket) -> None:
        self._controller, self._ticket = controller, ticket

    def read(self, rows: int) -> list[int]:
        return array("q", self._controller.wait(self._ticket)).tolist()[:rows]


class RemoteGreedy:
    """Async decode: the ranks keep the tokens that the next step starts from."""

    def __init__(self, controller: Controller, decode: RemoteReplay) -> None:
        self._controller = controller
        self._decode = decode
        self._number = controller.new_launcher()
        weakref.finalize(self, controller.free_launcher, self._number).atexit = False

    def launch(self, step: Step, ahead: bool) -> _RemoteResult:
        self._decode.count(step)
        ticket = self._controller.ask_step(
            Kind.LAUNCH, self._decode.number, step, self._number, ahead
        )
        return _RemoteResult(self._controller, ticket)


class RemoteCache:
    """Blocks are given here; their tensors are in the ranks."""

    def __init__(self, spec: CacheSpec, blocks: int, controller: Controller) -> None:
        self.spec = spec
        self.allocator = BlockAllocator(blocks)
        self._controller = controller

    def tensor(self, name: str, layer: int) -> torch.Tensor:
        raise PlanError(f"the cache '{name}' of layer {layer} is in the ranks, a part in each")

    def copy_block(self, source: int, target: int) -> None:
        self._controller.tell(Encoder.numbers(Kind.COPY, source, target))


@dataclass
class RanksStatistics(Statistics):
    """Counts of the controller, and with them those that only rank 0 can take."""

    ask: Callable[[], dict[str, Any]] | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        self._refresh()
        return super().to_json()

    def summary(self) -> str:
        self._refresh()
        return super().summary()

    def _refresh(self) -> None:
        if self.ask is None:
            return
        found = self.ask()
        for row in found["captures"]:
            time = Time(row["graphs"], row["seconds"])
            self.captures[(row["phase"], row["bucket"])] = time
        for row in found["segments"]:
            key = (row["phase"], row["bucket"], row["segment"])
            self.segments[key] = Time(row["count"], row["seconds"])
        self.guard_steps = Counter(found["guard_steps"])
        self.vendor_calls = Counter(found["vendor_calls"])


def remote_machine(
    artifact: Artifact,
    watch: Watch,
    ends: list[Ends],
    descriptor: int,
    ready: list[dict[str, Any]],
    timing: bool,
) -> Machine:
    """The machine of ranks that are ready."""
    manifest = artifact.manifest
    phases = phases_of(manifest)
    controller = Controller(watch, ends, Encoder(symbols_of(phases)))
    exclusive = Exclusive()
    first = ready[0]

    def ask() -> dict[str, Any]:
        with exclusive:
            question = controller.ask(Encoder.numbers(Kind.STATISTICS))
            found: dict[str, Any] = json.loads(controller.wait(question))
            return found

    statistics = RanksStatistics(first["emulated"], timing, interpreted=first["interpreted"])
    statistics.ask = ask
    logits = SharedLogits(manifest, artifact.plans, descriptor)
    entries = manifest.phases_of(0)
    replays = {
        key: RemoteReplay(
            controller, phases.index(key.phase), artifact.plans[key], logits, statistics
        )
        for key in entries
    }
    buckets = {key: Buckets(key, entry.buckets) for key, entry in entries.items()}
    table = manifest.cache.blocks_per_sequence * manifest.cache.block_size
    decode = replays[DECODE.key]
    return Machine(
        HOST,
        RemoteCache(manifest.cache, first["kv_blocks"], controller),
        replays,
        buckets[PREFILL.key],
        buckets[DECODE.key],
        min(manifest.limits.max_context, table),
        statistics,
        StreamOrder(HOST),
        exclusive,
        lambda rows: RemoteGreedy(controller, decode),
        controller.close,
        times=RanksTimes(controller, exclusive, [each["device"] for each in ready]),
    )

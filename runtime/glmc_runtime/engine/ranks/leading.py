"""Ranks that torchrun has started: rank 0 gives the steps, the others follow it.

A step is one broadcast of a few kilobytes; a prompt that is longer takes a second one. The group of
these messages is gloo's, wherever the ranks compute.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from glmc_runtime.engine.assemble import Machine, Replay, assemble
from glmc_runtime.engine.greedy_tokens import GreedyLauncher, GreedyResult
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.engine.ranks.channel import ChannelClosedError
from glmc_runtime.engine.ranks.follow import Follower, symbols_of
from glmc_runtime.engine.ranks.member import (
    Launched,
    backend_for,
    group_of,
    join,
    take_card,
    wrong_size,
)
from glmc_runtime.engine.ranks.messages import Encoder, Kind
from glmc_runtime.engine.ranks.shared import phases_of
from glmc_runtime.errors import RankError, RequestError
from glmc_runtime.format.phases import DECODE
from glmc_runtime.format.plan import Call
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.replay.cache import Cache
from glmc_runtime.replay.step import Step

_INLINE = 4096
_LENGTH_BYTES = 8
_FOR_EVER = timedelta(days=365)


def launched_machine(
    artifact: Artifact,
    options: LoadOptions,
    place: Launched,
    given_tensors: Mapping[str, torch.Tensor] | None = None,
) -> Machine:
    """The machine of a process that torchrun has started: that of rank 0 leads, any other
    follows."""
    if place.size != artifact.manifest.ranks.count:
        raise wrong_size(place.size, artifact.manifest.ranks.count)
    device = take_card(artifact, place.local_rank, options)
    own_group = not dist.is_initialized()
    if not own_group:
        process_group = dist.group.WORLD
    else:
        backend = backend_for(artifact, device, options)
        process_group = join(None, place.rank, place.size, backend)
    group = group_of(artifact, process_group, place.rank, place.size)
    machine = assemble(artifact, options, given_tensors, group)
    messages = GroupChannel(own_group)
    phases = phases_of(artifact.manifest)
    if place.rank == 0:
        return _leading(machine, messages, phases)
    return _following(machine, messages, phases, place.rank)


class GroupChannel:
    """Messages from rank 0 to all others of the process group, which with ``own`` ends with it."""

    def __init__(self, own: bool) -> None:
        self._own = own
        self._group = dist.new_group(backend="gloo", timeout=_FOR_EVER)
        self._memory = torch.zeros(_INLINE, dtype=torch.uint8)

    def send(self, message: bytes) -> None:
        length = len(message).to_bytes(_LENGTH_BYTES, "little")
        room = _INLINE - _LENGTH_BYTES
        head = length + message[:room]
        self._memory[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        self._broadcast(self._memory)
        if len(message) > room:
            rest = torch.frombuffer(bytearray(message[room:]), dtype=torch.uint8)
            self._broadcast(rest)

    def receive(self) -> bytes:
        self._broadcast(self._memory)
        whole = bytes(self._memory.tolist())
        length = int.from_bytes(whole[:_LENGTH_BYTES], "little")
        inline = whole[_LENGTH_BYTES : _LENGTH_BYTES + length]
        if len(inline) == length:
            return inline
        rest = torch.zeros(length - len(inline), dtype=torch.uint8)
        self._broadcast(rest)
        return inline + bytes(rest.tolist())

    def close(self) -> None:
        """After the last message, on all ranks."""
        if self._own and dist.is_initialized():
            dist.destroy_process_group()
            # Its threads end with the last reference; one at work while the interpreter ends
            # would abort the process.
            self._group = None

    def _broadcast(self, memory: torch.Tensor) -> None:
        try:
            dist.broadcast(memory, 0, group=self._group)
        except RuntimeError as error:
            raise ChannelClosedError(str(error)) from error


class Leader:
    """Tells the other ranks each step before this process takes it."""

    def __init__(self, channel: GroupChannel, encoder: Encoder) -> None:
        self.encoder = encoder
        self._channel = channel
        self._freed: deque[int] = deque()
        self._launchers = 0
        self._failed = False
        self.close = weakref.finalize(self, _stop, channel)

    def tell(self, message: bytes) -> None:
        """Inside of ``with``. Raises :class:`RankError` where the others are not there, or not in
        step."""
        if self._failed or not self.close.alive:
            raise RankError(
                "the ranks are not in step any longer",
                expected="a session that is open, none of whose steps has failed",
                remedy="start the ranks again",
            )
        try:
            while self._freed:
                self._channel.send(Encoder.numbers(Kind.FREE, self._freed.popleft()))
            self._channel.send(message)
        except ChannelClosedError as error:
            raise RankError(
                "a rank has ended",
                found=next(iter(str(error).splitlines()), ""),
                remedy="see what torchrun says of it",
            ) from error

    def __enter__(self) -> None:
        """What is told to all is told and done here inside of this: what is broken off, by Ctrl-C
        too, leaves the others ahead or in the middle of a message."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._failed = self._failed or kind is not None

    def new_launcher(self, owner: object) -> int:
        self._launchers += 1
        weakref.finalize(owner, self._freed.append, self._launchers).atexit = False
        return self._launchers


def _stop(channel: GroupChannel) -> None:
    with contextlib.suppress(ChannelClosedError):  # there may be nobody to be told
        channel.send(Encoder.numbers(Kind.STOP))
        channel.close()


class LeadingReplay:
    """A phase that all ranks run, this process among them."""

    def __init__(self, leader: Leader, number: int, replay: Replay) -> None:
        self.number = number
        self._leader = leader
        self._replay = replay

    @property
    def has_greedy(self) -> bool:
        return self._replay.has_greedy

    def run(self, step: Step) -> torch.Tensor:
        with self._leader:
            self._leader.tell(self._leader.encoder.step(Kind.RUN, self.number, step))
            return self._replay.run(step)

    def run_greedy(self, step: Step) -> torch.Tensor:
        with self._leader:
            self._leader.tell(self._leader.encoder.step(Kind.GREEDY, self.number, step))
            return self._replay.run_greedy(step)

    def trace(self, step: Step) -> Iterator[tuple[Call, dict[str, Any]]]:
        with self._leader:
            self._leader.tell(self._leader.encoder.step(Kind.RUN, self.number, step))
            yield from self._replay.trace(step)


class LeadingGreedy:
    """Async decode on all ranks."""

    def __init__(self, leader: Leader, phase: int, own: GreedyLauncher) -> None:
        self._leader = leader
        self._phase = phase
        self._own = own
        self._number = leader.new_launcher(self)

    def launch(self, step: Step, ahead: bool) -> GreedyResult:
        encoder = self._leader.encoder
        with self._leader:
            self._leader.tell(encoder.step(Kind.LAUNCH, self._phase, step, self._number, ahead))
            return self._own.launch(step, ahead)


class LeadingCache:
    """The cache of this process, whose blocks are copied on all ranks alike."""

    def __init__(self, leader: Leader, own: Cache) -> None:
        self.spec = own.spec
        self.allocator = own.allocator
        self._leader = leader
        self._own = own

    def tensor(self, name: str, layer: int) -> torch.Tensor:
        return self._own.tensor(name, layer)

    def copy_block(self, source: int, target: int) -> None:
        with self._leader:
            self._leader.tell(Encoder.numbers(Kind.COPY, source, target))
            self._own.copy_block(source, target)


def _leading(machine: Machine, channel: GroupChannel, phases: list[str]) -> Machine:
    leader = Leader(channel, Encoder(symbols_of(phases)))
    decode = phases.index(DECODE.name)
    return replace(
        machine,
        cache=LeadingCache(leader, machine.cache),
        replays={
            key: LeadingReplay(leader, phases.index(key.phase), replay)
            for key, replay in machine.replays.items()
        },
        greedy=lambda rows: LeadingGreedy(leader, decode, machine.greedy(rows)),
        close=leader.close,
    )


class _FollowingReplay:
    """A phase of a rank that another one leads: what the session is asked for is refused."""

    def __init__(self, rank: int, replay: Replay) -> None:
        self.has_greedy = replay.has_greedy
        self._rank = rank

    def run(self, step: Step) -> torch.Tensor:
        raise self._refusal()

    def run_greedy(self, step: Step) -> torch.Tensor:
        raise self._refusal()

    def trace(self, step: Step) -> Iterator[tuple[Call, dict[str, Any]]]:
        raise self._refusal()

    def _refusal(self) -> RequestError:
        return RequestError(
            f"rank {self._rank} takes the steps of rank 0, and none of its own",
            remedy="call session.follow() here, and generate on rank 0 alone",
        )


def _following(machine: Machine, channel: GroupChannel, phases: list[str], rank: int) -> Machine:
    follower = Follower(machine, phases, channel, None)

    def follow() -> bool:
        try:
            follower.follow()
            channel.close()
        except ChannelClosedError as error:
            raise RankError(
                "rank 0 has ended without closing its session",
                found=next(iter(str(error).splitlines()), ""),
                remedy="see what torchrun says of it",
            ) from error
        return True

    replays = {key: _FollowingReplay(rank, replay) for key, replay in machine.replays.items()}
    return replace(machine, replays=replays, follow=follow)

"""Async decode, greedy: a step is enqueued before the tokens of the in-flight step are read.

Positions, slots, lengths and blocks of the next step are known without its tokens, and those go
from one step to the next on the device. So the host prepares a step while the device computes the
one before it, and waits only for the tokens that it returns.

A step that is in flight when a sequence leaves computes one token too many for it, which is thrown
away. The blocks that it wrote to can be given to others at once: whatever they do with them comes
later on the same stream.
"""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from glmc_runtime.arguments import shown
from glmc_runtime.engine.block_allocation import reserve
from glmc_runtime.engine.greedy_tokens import GreedyResult
from glmc_runtime.engine.sampling import not_finite
from glmc_runtime.engine.sequences import (
    Sequence,
    SequenceStep,
    check_decode,
    check_distinct,
    scheduled_tokens,
)
from glmc_runtime.errors import CapacityError, GlmcError, RequestError
from glmc_runtime.replay.step import ScheduledTokens, Step, blocks_for

if TYPE_CHECKING:
    from glmc_runtime.engine.assemble import Machine


@dataclass(frozen=True)
class _InFlightStep:
    """An enqueued step: its rows, the position of each, and the tokens that it will have."""

    sequences: list[Sequence]
    changes: list[int]
    starts: list[int]
    result: GreedyResult

    def untouched(self, sequence: Sequence, row: int) -> bool:
        """Whether the sequence is as it was before the step, but for what the step does to it."""
        start = self.starts[row]
        same = sequence.changes == self.changes[row]
        return same and sequence.cached == len(sequence) == start


class GreedySteps:
    """Decodes a batch greedily; see :meth:`glmc_runtime.generate.session.Session.greedy_steps`.

    ``sequences`` are those that are still in, in their order.
    """

    def __init__(
        self,
        machine: Machine,
        vocabulary: int,
        sequences: ListLike[Sequence],
        token_ids: ListLike[int],
    ) -> None:
        check_distinct([SequenceStep(sequence) for sequence in sequences])
        ids = check_decode(sequences, token_ids)
        rows = machine.decode_buckets.choose(len(sequences))
        self.sequences = list(sequences)
        self._tokens = ids
        self._machine = machine
        self._vocabulary = vocabulary
        self._counts = machine.statistics.async_decode
        self._in_flight: _InFlightStep | None = None
        self._failure: GlmcError | None = None
        self._launcher = machine.greedy(rows)

    @property
    def ahead(self) -> bool:
        """Whether a step is in flight whose tokens were not returned yet."""
        return self._in_flight is not None

    @torch.inference_mode()
    def step(self, ahead: bool = True) -> list[int]:
        """Decode the newest token of each sequence and return the tokens after them.

        With ``ahead`` the step after this one is enqueued, too, where context and blocks allow it.
        Raises what :meth:`glmc_runtime.generate.session.Session.decode` does and, with the
        sequences as decode leaves them, :class:`NumericsError` where logits are not finite; that
        ends it.
        """
        with self._machine.exclusive, self._machine.stream_order.enter():
            return self._step(ahead)

    def _step(self, ahead: bool) -> list[int]:
        started = perf_counter()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        in_flight, self._in_flight = self._in_flight, None
        if in_flight is not None and not self._is_current(in_flight):
            self._counts.discarded += len(in_flight.sequences)
            in_flight = None
        if in_flight is None:
            in_flight = self._launch(self._first_chunks(), ahead=False)
        if ahead and len(in_flight.sequences) == len(self.sequences):
            self._launch_ahead(in_flight)
        waiting = perf_counter()
        ids = in_flight.result.read(len(in_flight.sequences))
        ended = perf_counter()
        self._counts.steps += 1
        self._counts.waited += ended - waiting
        self._counts.seconds += ended - started
        return self._commit(in_flight, ids)

    def leave(self, sequence: Sequence) -> None:
        """Let a sequence out; its row of a step in flight is thrown away."""
        with self._machine.exclusive:
            if sequence not in self.sequences:
                raise RequestError("the sequence is none of this batch", found=shown(sequence))
            row = self.sequences.index(sequence)
            del self.sequences[row], self._tokens[row]
            self._failure = None  # of a batch that is no more
            self._free_spare_block(sequence)

    def close(self) -> None:
        """Let all sequences out, each as decode would have left it."""
        with self._machine.exclusive:
            if self._in_flight is not None:
                self._counts.discarded += len(self._in_flight.sequences)
            self._in_flight = self._failure = None
            for sequence in self.sequences:
                self._free_spare_block(sequence)
            self.sequences, self._tokens = [], []

    def __iter__(self) -> GreedySteps:
        return self

    def __next__(self) -> list[int]:
        with self._machine.exclusive:
            if not self.sequences:
                raise StopIteration
            return self.step()

    def __enter__(self) -> GreedySteps:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _is_current(self, in_flight: _InFlightStep) -> bool:
        """Whether a step is still that of its sequences: nothing else was done to one since."""
        inside = {id(sequence) for sequence in self.sequences}
        return all(
            in_flight.untouched(sequence, row)
            for row, sequence in enumerate(in_flight.sequences)
            if id(sequence) in inside
        )

    def _first_chunks(self) -> list[ScheduledTokens]:
        """The chunks of a step whose tokens are on the host."""
        check_distinct([SequenceStep(sequence) for sequence in self.sequences])
        check_decode(self.sequences, self._tokens)
        return [
            scheduled_tokens(
                SequenceStep(sequence, (token,)), self._machine.max_context, self._vocabulary
            )
            for sequence, token in zip(self.sequences, self._tokens, strict=True)
        ]

    def _launch_ahead(self, in_flight: _InFlightStep) -> None:
        """Enqueue the step after ``in_flight``.

        Where blocks are short, nothing is ahead: the same step is tried again when its turn comes.
        Any other error waits until the tokens of ``in_flight`` are returned, and is raised then.
        """
        if max(in_flight.starts) + 2 > self._machine.max_context:
            return
        chunks = [
            ScheduledTokens((0,), start + 1, sequence.blocks)
            for sequence, start in zip(in_flight.sequences, in_flight.starts, strict=True)
        ]
        try:
            self._in_flight = self._launch(chunks, ahead=True)
        except CapacityError:
            return
        except GlmcError as error:
            self._failure = error
            return
        self._counts.ahead += 1

    def _launch(self, chunks: list[ScheduledTokens], ahead: bool) -> _InFlightStep:
        machine = self._machine
        reserve(machine.cache, chunks)
        bucket = machine.decode_buckets.choose(len(chunks))
        step = Step(chunks, bucket, bucket, machine.cache.spec.block_size)
        result = self._launcher.launch(step, ahead)
        changes = [sequence.changes for sequence in self.sequences]
        starts = [chunk.start for chunk in chunks]
        return _InFlightStep(list(self.sequences), changes, starts, result)

    def _commit(self, in_flight: _InFlightStep, ids: list[int]) -> list[int]:
        """Leave the sequences as decode would, with the new tokens to be decoded next."""
        places = {id(sequence): place for place, sequence in enumerate(self.sequences)}
        for sequence, token in zip(in_flight.sequences, ids, strict=True):
            place = places.get(id(sequence))
            if place is None:
                self._counts.discarded += 1
                continue
            sequence.tokens.append(self._tokens[place])
            sequence.cached += 1
            self._tokens[place] = token
        if any(token < 0 for token in self._tokens):
            error = not_finite(f"greedy tokens {self._tokens[:4]}, of which -1 is none")
            self.close()
            raise error
        return list(self._tokens)

    def _free_spare_block(self, sequence: Sequence) -> None:
        """Free the block that a sequence was given for a step that it does not take."""
        needed = blocks_for(sequence.cached, self._machine.cache.spec.block_size)
        self._machine.cache.allocator.free(sequence.blocks[needed:])
        del sequence.blocks[needed:]

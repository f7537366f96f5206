"""The engine: one loaded artifact, its memory, and the steps over sequences that schedulers drive.

Threads may share an engine: each step is run whole before the next one begins, whoever asks for it
(:mod:`glmc_runtime.engine.exclusive`). A fork of the process may not use it. A scheduler makes
sequences, calls ``step`` as it likes (``prefill`` and ``decode`` are its common cases), and gives
blocks back with ``release`` and ``truncate``; ``fork`` shares them. What is refused changes
nothing, and a step that fails leaves tokens and cached counts as they were. ``greedy_steps``
decodes without waiting for the device. No text is read or made here: see
:mod:`glmc_runtime.generate.session`.

Logits are always the caller's own, to keep and to change. The copy costs less than their argmax
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as ListLike
from contextlib import AbstractContextManager
from os import PathLike
from types import TracebackType
from typing import TypeVar

import torch

from glmc_runtime.arguments import integer
from glmc_runtime.engine.assemble import Machine, Replay
from glmc_runtime.engine.async_decode import GreedySteps
from glmc_runtime.engine.block_allocation import blocks_lacking, reserve
from glmc_runtime.engine.packing import micro_batches_of, step_of
from glmc_runtime.engine.sampling import not_finite
from glmc_runtime.engine.sequences import (
    Sequence,
    SequenceStep,
    check_decode,
    check_distinct,
    new_sequence,
    scheduled_tokens,
    sequence_of,
    sequence_steps_of,
    sequences_of,
)
from glmc_runtime.engine.timeline import timeline
from glmc_runtime.errors import RequestError
from glmc_runtime.format.phases import DECODE, PREFILL
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.replay.step import ScheduledTokens, Step, blocks_for

Taken = TypeVar("Taken")
Self = TypeVar("Self", bound="Engine")


class Engine:
    """Steps of an artifact over sequences of token ids.

    ``emulated`` says whether the vendor's emulator runs, ``interpreted`` whether Triton's
    interpreter does, and ``greedy`` whether the plans compute the likeliest tokens themselves.
    """

    def __init__(self, artifact: Artifact, machine: Machine) -> None:
        self.artifact = artifact
        self.manifest = artifact.manifest
        self.device = machine.device
        self.emulated = machine.statistics.emulated
        self.interpreted = machine.statistics.interpreted
        self.statistics = machine.statistics
        self.cache = machine.cache
        self.decode_buckets = machine.decode_buckets
        self.prefill_buckets = machine.prefill_buckets
        self.max_context = machine.max_context
        self.greedy = all(machine.replays[phase.key].has_greedy for phase in (PREFILL, DECODE))
        self._fused_cache_write = artifact.plans[DECODE.key].fused_cache_write
        self._replays = machine.replays
        self._machine = machine

    def close(self) -> None:
        """End the processes of an artifact of several ranks; of any other there is nothing to
        end. Also where a ``with`` of the engine ends, and with the program."""
        self._machine.close()

    def follow(self) -> bool:
        """On a rank other than 0 that torchrun has started, take the steps of rank 0 until its
        session is closed; True then. Anywhere else nothing is done; False."""
        return self._machine.follow()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def timeline(self, path: str | PathLike[str]) -> AbstractContextManager[None]:
        """Time each kernel call of the steps that are taken in the ``with`` of this and write them
        to ``path``, a Chrome trace that Perfetto opens (docs/debugging.md), of all ranks that
        this process has started.

        Steps are slower while they are timed. Raises :class:`RequestError` for a file that can't be
        written, for a second timeline at once, and where ranks in other processes are on cards.
        """
        return timeline(path, self.artifact, self._machine)

    def sequence(self, tokens: ListLike[int]) -> Sequence:
        """A new sequence; raises :class:`RequestError` for an empty or overlong prompt."""
        return new_sequence(tokens, self.max_context, self.manifest.model.vocabulary)

    def step(self, batch: ListLike[SequenceStep]) -> torch.Tensor:
        """One step over a ``batch`` of sequences, each computing and caching new tokens.

        Returns the logits that the batch asks for, [sum of its ``logits``, vocabulary], in the
        order of the batch and of the tokens of each, in a tensor of the caller's own.

        Logits after several tokens of a sequence cut it there into slices that run side by side.
        A step of single tokens, such slices included, runs in the decode plan, any other in the
        prefill plan, whatever it mixes. It is one replay unless it is beyond the buckets: more
        tokens than the largest prefill bucket, or more slices than the largest decode bucket.

        Raises :class:`RequestError` for a SequenceStep that can't be right and
        :class:`CapacityError` when KV blocks are short; both change nothing.
        """
        return self._step(sequence_steps_of(batch))

    @torch.inference_mode()
    def _step(self, batch: ListLike[SequenceStep]) -> torch.Tensor:
        def take(replay: Replay, step: Step, wanted: list[int]) -> torch.Tensor:
            logits = replay.run(step)
            with torch.inference_mode(False):  # the caller may change its logits in place
                return logits.clone() if len(wanted) == len(step.chunks) else logits[wanted]

        with self._machine.exclusive:
            chunks, kept = self._run(batch, take)
            _commit(batch, chunks)
        with torch.inference_mode(False):
            return kept[0] if len(kept) == 1 else torch.cat(kept)

    @torch.inference_mode()
    def step_greedy(self, batch: ListLike[SequenceStep]) -> list[int]:
        """A :meth:`step` that returns the likeliest tokens in place of the logits, without a copy
        of these; for an artifact whose plans compute them (``greedy``).

        Raises :class:`NumericsError` where logits are not finite, with the sequences as they were,
        and what ``step`` raises.
        """

        def take(replay: Replay, step: Step, wanted: list[int]) -> tuple[torch.Tensor, list[int]]:
            return replay.run_greedy(step).clone(), wanted

        batch = sequence_steps_of(batch)
        with self._machine.exclusive:
            chunks, kept = self._run(batch, take)
            read = [(tokens.tolist(), wanted) for tokens, wanted in kept]
            likeliest: list[int] = [tokens[row] for tokens, wanted in read for row in wanted]
            if any([token < 0 for token in likeliest]):
                raise not_finite(f"greedy tokens {likeliest[:4]}, of which -1 is none")
            _commit(batch, chunks)
        return likeliest

    def _run(
        self, batch: ListLike[SequenceStep], take: Callable[[Replay, Step, list[int]], Taken]
    ) -> tuple[list[ScheduledTokens], list[Taken]]:
        """Check and run a step; its chunks, and what ``take`` got from each of its replays. It runs
        the replay, and is told which rows' logits are wanted."""
        check_distinct(batch)
        vocabulary = self.manifest.model.vocabulary
        chunks = [scheduled_tokens(item, self.max_context, vocabulary) for item in batch]
        reserve(self.cache, chunks)
        for item in batch:
            item.sequence.changes += 1
        buckets = self.prefill_buckets, self.decode_buckets
        size, fused_cache_write = self.manifest.cache.block_size, self._fused_cache_write
        results: list[Taken] = []
        with self._machine.stream_order.enter():
            for micro_batch in micro_batches_of(chunks, *buckets, fused_cache_write):
                phase, step = step_of(micro_batch, *buckets, size, fused_cache_write)
                wanted = [row for row, chunk in enumerate(micro_batch) if chunk.logits]
                results.append(take(self._replays[phase], step, wanted))
        return chunks, results

    def prefill(self, sequences: ListLike[Sequence]) -> torch.Tensor:
        """Cache all tokens of the sequences that are not cached yet; a :meth:`step`.

        Returns the logits of the last token of each, [len(sequences), vocabulary].
        """
        return self.step([SequenceStep(sequence) for sequence in sequences_of(sequences)])

    def decode(self, sequences: ListLike[Sequence], token_ids: ListLike[int]) -> torch.Tensor:
        """Append one token to each sequence, all of whose tokens are cached; a :meth:`step`.

        Returns the logits after these tokens, [len(sequences), vocabulary]. It is one replay, so
        it also raises :class:`CapacityError` for more sequences than the largest decode bucket.
        """
        sequences = sequences_of(sequences)
        self.decode_buckets.choose(len(sequences))
        with self._machine.exclusive:
            pairs = zip(sequences, check_decode(sequences, token_ids), strict=True)
            return self._step([SequenceStep(sequence, (token,)) for sequence, token in pairs])

    def greedy_steps(self, sequences: ListLike[Sequence], token_ids: ListLike[int]) -> GreedySteps:
        """Decode a batch greedily, on a device with a step in flight while the host reads tokens
        (async decode).

        Iterate over it: each iteration appends ``token_ids``, then the tokens of the iteration
        before, to the sequences and gives the likeliest tokens after them, as :meth:`decode` and an
        argmax of its logits would. Between two iterations the session may be used for anything;
        what is done to a sequence of the batch discards the in-flight step. ``leave`` lets a
        sequence out, ``close`` (or leaving a ``with``) all of them, which gives back the blocks of
        such a step.

        Raises what ``decode`` does, and :class:`RequestError` for an artifact whose plans do not
        compute the likeliest tokens (``greedy``).
        """
        if not self._replays[DECODE.key].has_greedy:
            raise RequestError(
                "the artifact's decode plan does not compute the likeliest tokens",
                remedy="use decode, or compile for a target that has them, such as cuda",
            )
        vocabulary = self.manifest.model.vocabulary
        with self._machine.exclusive:
            return GreedySteps(self._machine, vocabulary, sequences_of(sequences), token_ids)

    def fork(self, sequence: Sequence) -> Sequence:
        """A second sequence with the same tokens that shares what is cached of them.

        Nothing is copied now. A shared block that is partly filled is copied before one of its
        owners writes to it, which takes one block more. Fork and :meth:`truncate` to share a
        prefix.
        """
        sequence_of(sequence)
        with self._machine.exclusive:
            blocks = sequence.blocks[: blocks_for(sequence.cached, self.manifest.cache.block_size)]
            self.cache.allocator.share(blocks)
            return Sequence(list(sequence.tokens), blocks, sequence.cached)

    def truncate(self, sequence: Sequence, length: int) -> None:
        """Forget the tokens beyond the first ``length``, such as rejected drafts, and give back
        the blocks that only they used. Raises :class:`RequestError` for another length than 0 to
        the number of tokens."""
        sequence_of(sequence)
        length = integer("length", length)
        with self._machine.exclusive:
            if not 0 <= length <= len(sequence):
                raise RequestError(
                    "a sequence can't be truncated to this length",
                    expected=f"0 to {len(sequence)}",
                    found=str(length),
                )
            sequence.changes += 1
            needed = blocks_for(length, self.manifest.cache.block_size)
            self.cache.allocator.free(sequence.blocks[needed:])
            del sequence.blocks[needed:]
            del sequence.tokens[length:]
            sequence.cached = min(sequence.cached, length)

    def release(self, sequence: Sequence) -> None:
        """Give the blocks of a sequence back. Its tokens stay, so it can be prefilled again."""
        sequence_of(sequence)
        with self._machine.exclusive:
            self.cache.allocator.free(sequence.blocks)
            sequence.changes += 1
            sequence.blocks = []
            sequence.cached = 0

    def blocks_needed(self, sequence: Sequence, length: int) -> int:
        """Free blocks that a sequence takes to grow to ``length`` tokens, copies of shared ones
        counted."""
        with self._machine.exclusive:
            return blocks_lacking(self.cache, sequence.blocks, sequence.cached, length)


def _commit(batch: ListLike[SequenceStep], chunks: list[ScheduledTokens]) -> None:
    """Note what a step that has succeeded appended and cached."""
    for item, chunk in zip(batch, chunks, strict=True):
        item.sequence.tokens.extend(item.append)
        item.sequence.cached += len(chunk.tokens)

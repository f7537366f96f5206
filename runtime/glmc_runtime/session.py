"""A session: one loaded artifact, its memory, and the two steps that an engine drives.

A session is used from one thread. The logits that ``prefill`` and ``decode`` return are valid
until the next step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as ListLike
from os import PathLike
from time import perf_counter

import torch

from glmc_runtime.assemble import Machine, assemble
from glmc_runtime.errors import CapacityError, RequestError
from glmc_runtime.generation import Completion, Event, Generation, Stop
from glmc_runtime.inputs import Step
from glmc_runtime.loader import Artifact, load_artifact
from glmc_runtime.sampling import SamplingParameters
from glmc_runtime.sequences import (
    Chunk,
    Sequence,
    blocks_for,
    check_decode,
    check_prefill,
    new_sequence,
)
from glmc_runtime.text import Text


class Session:
    """See :meth:`load`. ``emulated`` is True when vendor calls run on the CPU emulator."""

    def __init__(self, artifact: Artifact, machine: Machine) -> None:
        self.artifact = artifact
        self.manifest = artifact.manifest
        self.device = machine.device
        self.emulated = machine.statistics.emulated
        self.statistics = machine.statistics
        self.cache = machine.cache
        self.text = Text(artifact.path / "tokenizer")
        self.decode_buckets = machine.decode_buckets
        self.prefill_buckets = machine.prefill_buckets
        self.max_context = machine.max_context
        self._replays = machine.replays

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        verify_hashes: bool = True,
        kv_blocks: int | None = None,
        kv_memory_bytes: int | None = None,
        emulate: bool | None = None,
        timing: bool = False,
    ) -> Session:
        """Load an artifact; see :func:`glmc_runtime.load` for the options and errors."""
        started = perf_counter()
        artifact = load_artifact(path, verify_hashes=verify_hashes)
        machine = assemble(artifact, emulate, kv_blocks, kv_memory_bytes, timing)
        machine.statistics.load_seconds = perf_counter() - started
        return cls(artifact, machine)

    def sequence(self, tokens: ListLike[int]) -> Sequence:
        """A new sequence; raises :class:`RequestError` for an empty or overlong prompt."""
        return new_sequence(tokens, self.max_context, self.manifest.model.vocabulary)

    @torch.inference_mode()
    def prefill(self, sequences: ListLike[Sequence]) -> torch.Tensor:
        """Cache all tokens of the sequences that are not cached yet.

        Returns the logits of the last token of each, [len(sequences), vocabulary], in a tensor of
        the caller's own. Prompts are packed into as few steps as the largest prefill bucket
        allows; a longer one is cut into chunks. Raises :class:`CapacityError` when KV blocks are
        short and :class:`RequestError` when there is nothing to cache or a token is not in the
        vocabulary; both change nothing.
        """
        check_prefill(sequences, self.max_context, self.manifest.model.vocabulary)
        self._reserve(sequences, [len(sequence) for sequence in sequences])
        rows: list[torch.Tensor | None] = [None] * len(sequences)
        next_one = 0
        while next_one < len(sequences):
            chunks, places = self._pack(sequences, next_one)
            count = sum(len(chunk.tokens) for chunk in chunks)
            step = Step(
                chunks,
                self.prefill_buckets.choose(count),
                len(chunks),
                self.manifest.cache.block_size,
            )
            logits = self._replays["prefill"].run(step)
            for row, (place, chunk) in enumerate(zip(places, chunks, strict=True)):
                sequences[place].cached += len(chunk.tokens)
                if sequences[place].cached == len(sequences[place]):
                    rows[place] = logits[row].clone()
                    next_one = place + 1
        with torch.inference_mode(False):  # the caller may change its logits in place
            return torch.stack([row for row in rows if row is not None])

    @torch.inference_mode()
    def decode(self, sequences: ListLike[Sequence], token_ids: ListLike[int]) -> torch.Tensor:
        """Append one token to each sequence and compute the logits behind it.

        Returns [len(sequences), vocabulary]: a view of the arena that the next step overwrites.
        Raises :class:`CapacityError` (KV blocks, or more sequences than the largest bucket) and
        :class:`RequestError` (context exceeded, not prefilled); both change nothing.
        """
        bucket = self.decode_buckets.choose(len(sequences))
        check_decode(sequences, token_ids, self.max_context, self.manifest.model.vocabulary)
        self._reserve(sequences, [len(sequence) + 1 for sequence in sequences])
        chunks = [
            Chunk((token,), sequence.cached, sequence.blocks)
            for sequence, token in zip(sequences, token_ids, strict=True)
        ]
        step = Step(chunks, bucket, bucket, self.manifest.cache.block_size)
        logits = self._replays["decode"].run(step)
        for sequence, token in zip(sequences, token_ids, strict=True):
            sequence.tokens.append(token)
            sequence.cached += 1
        return logits

    def release(self, sequence: Sequence) -> None:
        """Give the blocks of a sequence back. Its tokens stay, so it can be prefilled again."""
        self.cache.allocator.free(sequence.blocks)
        sequence.blocks = []
        sequence.cached = 0

    def blocks_needed(self, sequence: Sequence, length: int) -> int:
        """Blocks that a sequence lacks to hold ``length`` tokens."""
        needed = blocks_for(length, self.manifest.cache.block_size)
        return max(0, needed - len(sequence.blocks))

    def stream(
        self,
        prompts: Iterable[str | ListLike[int]],
        *,
        max_new_tokens: int = 128,
        sampling: SamplingParameters | ListLike[SamplingParameters] | None = None,
        stop_token_ids: Iterable[int] = (),
        ignore_eos: bool = False,
    ) -> Iterator[Event]:
        """Generate for all prompts (texts or token ids) and yield one event per new token.

        One ``sampling`` serves all prompts, or one each. Generation ends at any eos id of the
        model or of ``stop_token_ids``, after ``max_new_tokens``, or at the end of the context.
        Requests are checked here, before the first event: raises :class:`RequestError` and, for a
        request that the KV cache can never hold, :class:`CapacityError`.
        """
        stop = Stop(
            max_new_tokens,
            frozenset(stop_token_ids)
            | (frozenset() if ignore_eos else frozenset(self.manifest.model.eos_token_ids)),
        )
        generation = Generation(self, stop)
        prompts = list(prompts)
        if sampling is None or isinstance(sampling, SamplingParameters):
            sampling = [sampling or SamplingParameters()] * len(prompts)
        if len(sampling) != len(prompts):
            raise RequestError(
                "the number of sampling options is not that of the prompts",
                expected=str(len(prompts)),
                found=str(len(sampling)),
            )
        for prompt, parameters in zip(prompts, sampling, strict=True):
            tokens = self.text.encode(prompt) if isinstance(prompt, str) else prompt
            generation.add(self.sequence(tokens), parameters)
        return generation.events()

    def generate(
        self,
        prompts: Iterable[str | ListLike[int]],
        *,
        max_new_tokens: int = 128,
        sampling: SamplingParameters | ListLike[SamplingParameters] | None = None,
        stop_token_ids: Iterable[int] = (),
        ignore_eos: bool = False,
    ) -> list[Completion]:
        """Like :meth:`stream`, but collected: one completion per prompt, in their order."""
        prompts = list(prompts)
        completions = [Completion([], "", "") for _ in prompts]
        for event in self.stream(
            prompts,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop_token_ids=stop_token_ids,
            ignore_eos=ignore_eos,
        ):
            completions[event.request].take(event)
        return completions

    def _pack(self, sequences: ListLike[Sequence], start: int) -> tuple[list[Chunk], list[int]]:
        """Chunks of the next prefill step, and the place of each one's sequence."""
        space = self.prefill_buckets.largest
        chunks: list[Chunk] = []
        places: list[int] = []
        for place in range(start, len(sequences)):
            if not space or len(chunks) == self.decode_buckets.largest:
                break
            sequence = sequences[place]
            tokens = sequence.tokens[sequence.cached : sequence.cached + space]
            chunks.append(Chunk(tokens, sequence.cached, sequence.blocks))
            places.append(place)
            space -= len(tokens)
        return chunks, places

    def _reserve(self, sequences: ListLike[Sequence], lengths: list[int]) -> None:
        """Give each sequence the blocks for its length, or raise and give none."""
        needed = [
            self.blocks_needed(sequence, length)
            for sequence, length in zip(sequences, lengths, strict=True)
        ]
        allocator = self.cache.allocator
        if sum(needed) > allocator.available:
            raise CapacityError(
                "the KV cache has too few free blocks for this step",
                expected=f"{sum(needed)} blocks for {len(sequences)} sequences",
                found=f"{allocator.available} free of {allocator.usable}",
                remedy="release sequences, send fewer or shorter ones, or load with more kv_blocks",
            )
        for sequence, number in zip(sequences, needed, strict=True):
            if number:
                after = sequence.blocks[-1] if sequence.blocks else None
                sequence.blocks.extend(allocator.allocate(number, after))

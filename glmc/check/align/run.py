"""The steps in which an artifact is aligned: a ragged prefill, then decode steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor

from glmc.check.align.expectation import Expectation
from glmc.check.align.lock_step import LockStep, StepPlace
from glmc.check.align.rebuilt import Rebuilt
from glmc.check.align.two_replays import TwoReplays, two_replays
from glmc.check.verify.lockstep import RankThreads
from glmc_runtime.engine.loaded import LoadedArtifact
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.format.cache import SCRATCH_BLOCK, CacheKey
from glmc_runtime.format.phases import DECODE, PREFILL, PhaseKey
from glmc_runtime.replay.step import ScheduledTokens, Step, blocks_for


@dataclass(frozen=True)
class Sequences:
    """What is computed: a prefill of ``prompts``, then ``steps`` decode steps. ``tokens`` has the
    token of each sequence for each of these; None: the likeliest by what is expected."""

    prompts: Sequence[Sequence[int]]
    steps: int = 1
    tokens: Sequence[Sequence[int]] | None = None


@contextmanager
def running(
    rebuilt: Rebuilt, sequences: Sequences, expectation: Expectation, load: LoadOptions | None
) -> Iterator[Run]:
    """The artifact in memory inside the block. Raises what loading raises."""
    size = rebuilt.compiled.job.lowering.block_size
    first, owned = SCRATCH_BLOCK + 1, []
    for prompt in sequences.prompts:
        count = blocks_for(len(prompt) + sequences.steps, size)
        owned.append(list(range(first, first + count)))
        first += count
    load = replace(load or LoadOptions(), guard_steps=0)
    ranks = rebuilt.compiled.job.lowering.ranks
    with two_replays(rebuilt.artifact.path, ranks, load, first) as (threads, replays):
        yield Run(rebuilt, sequences, expectation, threads, replays, owned, first)


class Run:
    """The steps of a run. ``owned`` are the blocks of each sequence, of ``blocks`` in all."""

    def __init__(
        self,
        rebuilt: Rebuilt,
        sequences: Sequences,
        expectation: Expectation,
        threads: RankThreads,
        replays: Sequence[TwoReplays],
        owned: Sequence[list[int]],
        blocks: int,
    ) -> None:
        self._rebuilt, self._sequences, self._expectation = rebuilt, sequences, expectation
        self._threads, self.replays, self._blocks = threads, replays, blocks
        self._pairs = list(zip(sequences.prompts, owned, strict=True))
        self._caches: list[dict[CacheKey, Tensor]] = [{} for _ in replays]

    @property
    def loaded(self) -> LoadedArtifact:
        """The artifact in the memory of the first rank."""
        return self.replays[0].loaded

    def steps(self) -> Iterator[LockStep]:
        """Each step, whose calls are to be asked for before the next step is. Raises CapacityError
        for prompts that do not fit into one step."""
        chunks = [ScheduledTokens(list(prompt), 0, blocks) for prompt, blocks in self._pairs]
        step = self._step(0, PREFILL.key, chunks)
        yield step
        for number in range(self._sequences.steps):
            given = self._sequences.tokens
            tokens = step.logits().argmax(-1).tolist() if given is None else given[number]
            chunks = [
                ScheduledTokens([token], len(prompt) + number, blocks)
                for token, (prompt, blocks) in zip(tokens, self._pairs, strict=True)
            ]
            step = self._step(number + 1, DECODE.key, chunks)
            yield step

    def _step(self, number: int, key: PhaseKey, chunks: list[ScheduledTokens]) -> LockStep:
        size, count = self._rebuilt.compiled.job.lowering.block_size, len(chunks)
        real = sum(len(chunk.tokens) for chunk in chunks)
        bucket = self.loaded.buckets[key].choose(real)
        padded = Step(chunks, bucket, bucket if key == DECODE.key else count, size)
        place = StepPlace(number, key, padded, Step(chunks, real, count, size))
        return LockStep(
            self._rebuilt,
            self._expectation,
            self._threads,
            self.replays,
            place,
            self._caches,
            self._blocks,
        )

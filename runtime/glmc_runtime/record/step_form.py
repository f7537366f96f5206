"""How an engine will run the steps that are recorded: in which phases, of which sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glmc_runtime.engine.loaded import LoadedArtifact
from glmc_runtime.engine.packing import micro_batches_of, step_of
from glmc_runtime.errors import RequestError
from glmc_runtime.format.phases import DECODE, PhaseKey
from glmc_runtime.replay.step import ScheduledTokens


@dataclass(frozen=True)
class StepForm:
    """``replays`` micro-batches in one phase, padded to these ``buckets``; ``sizes`` are the
    largest of theirs, by symbol."""

    phase: PhaseKey
    replays: int
    sizes: dict[str, int]
    buckets: frozenset[int]

    def joined(self, other: StepForm | None) -> StepForm:
        """What holds the steps of both, which are of one phase."""
        if other is None:
            return self
        sizes = {name: max(size, other.sizes[name]) for name, size in self.sizes.items()}
        replays = max(self.replays, other.replays)
        return StepForm(self.phase, replays, sizes, self.buckets | other.buckets)


def step_form(loaded: LoadedArtifact, chunks: Sequence[ScheduledTokens]) -> StepForm:
    """The form of a step of these chunks. Raises :class:`RequestError` for one whose replays are
    not all of one phase: its values would not be the rows of one tensor."""
    buckets = loaded.prefill_buckets, loaded.decode_buckets
    fused = loaded.artifact.plans[DECODE.key].fused_cache_write
    size = loaded.artifact.manifest.cache.block_size
    batches = micro_batches_of(list(chunks), *buckets, fused)
    steps = [step_of(batch, *buckets, size, fused) for batch in batches]
    phases = {phase for phase, _ in steps}
    if len(phases) > 1:
        raise RequestError(
            "the last replay of the prompts has one token of each, and is one of decode",
            expected=f"at most {buckets[0].largest} tokens in all, or more of them in the last "
            "replay",
            found=f"prompts of {', '.join(str(len(chunk.tokens)) for chunk in chunks)} tokens",
            remedy="record the prompts apart, or others",
        )
    (phase,) = phases
    bucket = loaded.artifact.plans[phase].phase.bucket
    return StepForm(
        phase,
        len(steps),
        {name: max(step.sizes[name] for _, step in steps) for name in steps[0][1].sizes},
        frozenset(step.sizes[bucket] for _, step in steps),
    )


def joined_forms(forms: Sequence[StepForm]) -> dict[PhaseKey, StepForm]:
    """What holds all of these steps, by phase."""
    found: dict[PhaseKey, StepForm] = {}
    for form in forms:
        found[form.phase] = form.joined(found.get(form.phase))
    return found

"""A recorded run: the steps of an artifact in memory, whose values a receiver gets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from glmc_runtime.collectives.group import Group
from glmc_runtime.engine.engine import Engine
from glmc_runtime.engine.loaded import LoadedArtifact, load_into_memory
from glmc_runtime.engine.sequences import SequenceStep
from glmc_runtime.format.values import Values
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.record.artifact_run import ArtifactRun
from glmc_runtime.record.like import ModelOfRecord
from glmc_runtime.record.machine import RecordedPhases, recording_machine
from glmc_runtime.record.options import RecordOptions, fed
from glmc_runtime.record.plan_values import recorded_values
from glmc_runtime.record.receiver import Receiver
from glmc_runtime.record.step_form import StepForm, joined_forms, step_form
from glmc_runtime.replay.cache import KVCache
from glmc_runtime.replay.step import ScheduledTokens, blocks_for


class Recording:
    """An artifact in memory, as the rank of a ``group`` has it where it is of several, and the
    sequences of one record."""

    def __init__(
        self,
        artifact: Artifact,
        values: Values,
        receiver: Receiver,
        options: RecordOptions,
        run: ArtifactRun,
        group: Group | None = None,
    ) -> None:
        loaded = load_into_memory(artifact, replace(run.load, guard_steps=0), None, group)
        prompts = options.prompts
        self.loaded: LoadedArtifact = loaded
        self._receiver, self._options, self._run = receiver, options, run
        chunks = [ScheduledTokens(tokens, 0, []) for tokens in prompts]
        following = [ScheduledTokens((0,), len(tokens), []) for tokens in prompts]
        self._prefill, self._decode = step_form(loaded, chunks), step_form(loaded, following)
        forms = joined_forms([self._prefill, *[self._decode] * bool(options.steps)])
        spec = artifact.manifest.cache
        blocks = sum(blocks_for(len(each) + options.steps, spec.block_size) for each in prompts)
        cache = KVCache(spec, 1 + blocks, loaded.device)
        chosen = {
            key: recorded_values(artifact.plans[key], values.phases[key.phase], options)
            for key in forms
        }
        phases = RecordedPhases(loaded, cache, chosen, forms, run.graph, run.tap_memory)
        self._phases = phases.make()
        self._engine = Engine(artifact, recording_machine(loaded, cache, self._phases))
        self._sequences = [self._engine.sequence(prompt) for prompt in prompts]
        self._equal = True

    def steps(self) -> None:
        """Run them all, and describe the record."""
        sequences, given = self._sequences, self._options.tokens
        fed_tokens: list[list[int]] = []
        logits = self._step(0, self._prefill, [SequenceStep(each) for each in sequences])
        for number in range(1, self._options.steps + 1):
            tokens = logits.argmax(-1).tolist() if given is None else fed(given, number)
            fed_tokens.append(tokens)
            pairs = zip(sequences, tokens, strict=True)
            batch = [SequenceStep(sequence, (token,)) for sequence, token in pairs]
            logits = self._step(number, self._decode, batch)
        by_sequence = [[step[row] for step in fed_tokens] for row in range(len(sequences))]
        self._receiver.describe(self._facts(by_sequence))

    def _step(self, number: int, form: StepForm, batch: list[SequenceStep]) -> Tensor:
        """Run a step once for each group of values; its logits."""
        phase = self._phases[form.phase]
        before = [(each.sequence, each.sequence.cached, [*each.sequence.tokens]) for each in batch]
        lengths = [
            len(tokens) + len(each.append) - cached
            for each, (_, cached, tokens) in zip(batch, before, strict=True)
        ]
        self._receiver.begin(number, lengths)
        first: Tensor | None = None
        phase.target = self._receiver
        for group in range(len(phase.groups)):
            if first is not None:
                for sequence, cached, tokens in before:
                    self._engine.truncate(sequence, cached)
                    sequence.tokens.extend(tokens[cached:])
            phase.group = group
            self._receiver.run(form.phase.phase, form.replays)
            logits = self._engine.step(batch)
            if first is None:
                first = logits
            self._equal &= torch.equal(first.view(torch.uint8), logits.view(torch.uint8))
        phase.target = None
        assert first is not None
        return first

    def _facts(self, tokens: list[list[int]]) -> dict[str, Any]:
        """``replays`` is how often the largest of the steps was replayed, each time for other
        values; ``replays_equal`` whether it gave the same logits each time, bit for bit."""
        engine, manifest = self._engine, self._engine.manifest
        how = " (emulated)" if engine.emulated else " (interpreted)" if engine.interpreted else ""
        return {
            **ModelOfRecord.of(manifest).facts(),
            "target": manifest.target,
            "dtype": manifest.dtype,
            "emulated": engine.emulated,
            "interpreted": engine.interpreted,
            "made_by": f"glmc artifact, {manifest.target}{how}",
            "level": self._options.level,
            "prompts": [list(prompt) for prompt in self._options.prompts],
            "tokens": tokens,
            "graph": self._run.graph,
            "replays": max(len(phase.groups) for phase in self._phases.values()),
            "replays_equal": self._equal,
        }

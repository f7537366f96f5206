"""Record our own side: the values of an artifact's steps, on the device where it runs."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from glmc_runtime.engine.engine import Engine
from glmc_runtime.engine.loaded import LoadedArtifact, load_into_memory
from glmc_runtime.engine.sequences import SequenceStep
from glmc_runtime.errors import RequestError
from glmc_runtime.format.values import Values, read_values
from glmc_runtime.loading.loader import Artifact, load_artifact
from glmc_runtime.record.artifact_run import ArtifactRun
from glmc_runtime.record.machine import RecordedPhases, recording_machine
from glmc_runtime.record.options import RecordOptions, fed
from glmc_runtime.record.plan_values import recorded_values
from glmc_runtime.record.sink import Sink
from glmc_runtime.record.step_form import StepForm, joined_forms, step_form
from glmc_runtime.record.values_to_sink import ValuesToSink
from glmc_runtime.replay.cache import KVCache
from glmc_runtime.replay.step import ScheduledTokens, blocks_for

_RUN = ArtifactRun()


def record_artifact(
    path: str | PathLike[str], sink: Sink, options: RecordOptions, run: ArtifactRun = _RUN
) -> dict[str, Any]:
    """Run an artifact and give each value of each step to ``sink``, in the order of the calls; the
    facts of the record, which the sink has, too.

    Prefill of all prompts is step 0, packed; decode steps follow. Raises what loading raises,
    RequestError for prompts and steps that can't be run, and CapacityError where tap memory is
    short.
    """
    artifact = load_artifact(path)
    return record_values(
        artifact, read_values(artifact.files, artifact.plans.values()), sink, options, run
    )


def record_values(
    artifact: Artifact,
    values: Values,
    sink: Sink,
    options: RecordOptions,
    run: ArtifactRun = _RUN,
) -> dict[str, Any]:
    """As :func:`record_artifact`, of what was read already."""
    _check(artifact, options)
    loaded = load_into_memory(artifact, replace(run.load, guard_steps=0), None)
    return _Recording(loaded, values, sink, options, run).steps()


class _Recording:
    """An artifact in memory, and the sequences of one record."""

    def __init__(
        self,
        loaded: LoadedArtifact,
        values: Values,
        sink: Sink,
        options: RecordOptions,
        run: ArtifactRun,
    ) -> None:
        artifact, prompts = loaded.artifact, options.prompts
        self._sink, self._options, self._run = sink, options, run
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

    def steps(self) -> dict[str, Any]:
        """Run them all, and describe the record; its facts."""
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
        facts = self._facts(by_sequence)
        self._sink.describe(facts)
        return facts

    def _step(self, number: int, form: StepForm, batch: list[SequenceStep]) -> Tensor:
        """Run a step once for each group of values; its logits."""
        phase = self._phases[form.phase]
        before = [(each.sequence, each.sequence.cached, [*each.sequence.tokens]) for each in batch]
        lengths = [
            len(tokens) + len(each.append) - cached
            for each, (_, cached, tokens) in zip(batch, before, strict=True)
        ]
        self._sink.begin(number, lengths)
        first: Tensor | None = None
        for group in range(len(phase.groups)):
            if first is not None:
                for sequence, cached, tokens in before:
                    self._engine.truncate(sequence, cached)
                    sequence.tokens.extend(tokens[cached:])
            phase.group = group
            phase.target = ValuesToSink(self._sink, lengths, form.replays)
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
            "model": manifest.model.name,
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


def _check(artifact: Artifact, options: RecordOptions) -> None:
    """Refuse what can't be recorded before anything is loaded."""
    manifest, prompts, given = artifact.manifest, options.prompts, options.tokens
    if manifest.ranks.count > 1:
        raise RequestError(
            "an artifact of several ranks can't be recorded: no rank has whole tensors",
            expected="an artifact of one rank",
            found=f"{manifest.ranks.count} ranks",
            remedy="compile without --tensor-parallel",
        )
    if not prompts or not all(prompts):
        raise RequestError("there is nothing to record", expected="prompts of at least one token")
    if given is not None and (
        len(given) != len(prompts) or any(len(each) < options.steps for each in given)
    ):
        raise RequestError(
            "the tokens of the decode steps are not those of the prompts",
            expected=f"{options.steps} for each of {len(prompts)} sequences",
            found=", ".join(str(len(each)) for each in given),
        )
    longest = max(options.lengths) + options.steps
    most = min(
        manifest.limits.max_context, manifest.cache.blocks_per_sequence * manifest.cache.block_size
    )
    if longest > most:
        raise RequestError(
            "a sequence grows beyond the context",
            expected=f"at most {most} tokens",
            found=f"{longest} tokens, {options.steps} of decode steps among them",
            remedy="shorten the prompt, record fewer --steps, or compile with a larger max_context",
        )

"""Record our own side: the values of an artifact's steps, on the device where it runs."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from glmc_runtime.errors import RequestError
from glmc_runtime.format.values import Values
from glmc_runtime.loading.loader import Artifact, load_artifact
from glmc_runtime.record.artifact_run import ArtifactRun
from glmc_runtime.record.options import RecordOptions
from glmc_runtime.record.plan_values import values_of
from glmc_runtime.record.recording import Recording
from glmc_runtime.record.sink import Sink
from glmc_runtime.record.values_to_sink import ValuesToSink

_RUN = ArtifactRun()


def record_artifact(
    path: str | PathLike[str], sink: Sink, options: RecordOptions, run: ArtifactRun = _RUN
) -> dict[str, Any]:
    """Run an artifact and give each value of each step to ``sink``, in the order of the calls; the
    facts of the record, which the sink has, too. The ranks of one of several are processes that
    have ended when this returns.

    Prefill of all prompts is step 0, packed; decode steps follow. Raises what loading raises,
    RequestError for prompts and steps that can't be run, and CapacityError where tap memory is
    short.
    """
    artifact = load_artifact(path, verify_hashes=run.verify_hashes, rank=None)
    return record_values(artifact, values_of(artifact), sink, options, run)


def record_values(
    artifact: Artifact,
    values: Values,
    sink: Sink,
    options: RecordOptions,
    run: ArtifactRun = _RUN,
) -> dict[str, Any]:
    """As :func:`record_artifact`, of what was read already."""
    _check(artifact, options)
    facts: dict[str, Any] = {}
    receiver = _Described(sink, facts)
    if artifact.manifest.ranks.count == 1:
        Recording(artifact, values, receiver, options, run).steps()
    else:
        from glmc_runtime.record.ranks.controller import record_on_ranks

        record_on_ranks(artifact, values, receiver, options, run)
    return facts


class _Described(ValuesToSink):
    """Keeps the facts of the record, too."""

    def __init__(self, sink: Sink, facts: dict[str, Any]) -> None:
        super().__init__(sink)
        self._facts = facts

    def describe(self, facts: Mapping[str, Any]) -> None:
        self._facts.update(facts)
        super().describe(facts)


def _check(artifact: Artifact, options: RecordOptions) -> None:
    """Refuse what can't be recorded before anything is loaded."""
    manifest, prompts, given = artifact.manifest, options.prompts, options.tokens
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

"""The decision of ``--dtype auto``: float16 where the range allows it, else bfloat16."""

from __future__ import annotations

from glmc.capture.export import capture
from glmc.capture.routers import store_routers
from glmc.dtype_choice import FLOAT16_MAX, DtypeChoice, Magnitude
from glmc.errors import InternalError
from glmc.garbage import rare_collections
from glmc.ir.program import Program
from glmc.job import READING, WEIGHING, Job
from glmc.out_of_memory import memory_errors
from glmc.pipeline import runner
from glmc.pipeline.events import NOBODY, CurrentStage, Observer, Observers, stage
from glmc.pipeline.expectations import fusion_counts, require_matches
from glmc.range_check.activations import ActivationRange, activation_range
from glmc.range_check.cost import Rates, predictions
from glmc.range_check.prompt import Prompt, calibration_prompt
from glmc.range_check.weights import WeightRange, weight_range

FAST, WIDE = "float16", "bfloat16"
HEADROOM = 4.0
"""Another prompt may go further than the calibration prompt does: so many times is allowed for."""
STAGES = ("capture for the range check", "range of weights", "range of activations")
"""What a decision takes, in order, as events name it."""


def decide_dtype(job: Job, observer: Observer = NOBODY, rates: Rates | None = None) -> Job:
    """The job with its dtype; one that names a dtype, or need not weigh, is returned as it is.

    Raises what a compile of the model raises, CheckpointError and UsageError.
    """
    if not job.undecided:
        return job
    current = CurrentStage(READING)
    with memory_errors(lambda: current.name), rare_collections():
        return job.decided(_choice(job, Observers(current, observer), rates))


def _choice(job: Job, observer: Observer, rates: Rates | None) -> DtypeChoice:
    trial = job.variant(dtype=WEIGHING)
    trial.require_supported()
    if job.options.deterministic:
        return DtypeChoice(WIDE, f"no kernel with a fixed order of sums computes in {FAST}")
    prompt, source = calibration_prompt(job), job.weights
    if source is None:
        raise InternalError("a range check was begun without weights")
    seconds: dict[str, float] = {}
    with stage(observer, STAGES[0], seconds):
        program = _fused(trial)
    predicted: tuple[str, ...] = ()
    if rates is not None:
        predicted = tuple(
            predictions(
                program,
                rates,
                (FAST, WIDE),
                prefill=job.options.prefill_buckets[-1],
                decode=job.options.decode_buckets[-1],
                ranks=job.options.tensor_parallel,
            )
        )
    with stage(observer, STAGES[1], seconds):
        weights = weight_range(program, source)
    if weights.outside:
        return _by_weights(weights, predicted)
    with stage(observer, STAGES[2], seconds):
        activations = activation_range(program, source, prompt.token_ids, FLOAT16_MAX / HEADROOM)
    return _by_activations(weights, activations, prompt, predicted)


def _fused(job: Job) -> Program:
    """The stateless program after the fusing passes."""
    program = capture(job.source.config, job.source.shape, job.dtype, job.capture)
    store_routers(program, job.router_dtype)
    records = runner.fuse(program, passes=job.selection.passes)
    if not job.options.allow_missing:
        require_matches(records, fusion_counts(job.expected_matches))
    return program


def _by_weights(weights: WeightRange, predicted: tuple[str, ...]) -> DtypeChoice:
    others = f", and in {weights.outside - 1:,} more" if weights.outside > 1 else ""
    return DtypeChoice(
        WIDE,
        f"weights forbid {FAST}, which ends at {FLOAT16_MAX:g}: {weights.worst}{others}",
        weights.count,
        weights.largest,
        predicted=predicted,
    )


def _by_activations(
    weights: WeightRange,
    activations: ActivationRange,
    prompt: Prompt,
    predicted: tuple[str, ...],
) -> DtypeChoice:
    outside = activations.outside
    reason = (
        f"weights are within its range, and activations with a headroom of {HEADROOM:g}"
        if outside is None
        else _forbidding(outside)
    )
    return DtypeChoice(
        FAST if outside is None else WIDE,
        reason,
        weights.count,
        weights.largest,
        activations.ops,
        prompt.description,
        HEADROOM,
        predicted,
    )


def _forbidding(outside: Magnitude) -> str:
    if outside.largest == "nan":
        return f"an activation is no number in {WIDE} either: {outside}"
    return (
        f"activations forbid {FAST}, which ends at {FLOAT16_MAX:g} and is used up to "
        f"{FLOAT16_MAX / HEADROOM:g}; the first beyond: {outside}"
    )

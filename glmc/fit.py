"""What a model will take on its device, before it is compiled: the memory of an estimate, alone."""

from __future__ import annotations

from pathlib import Path

from glmc.config import CompileOptions, require_named_dtype
from glmc.errors import UsageError
from glmc.estimates.few_layers import captured, planned
from glmc.job import resolve
from glmc.presets.catalog import load_config
from glmc_runtime.loading.fit import FitReport, Wanted, fit_report


def model_fit(model: str | Path, wanted: Wanted, target: str, dtype: str | None) -> FitReport:
    """What fits of a preset or a checkpoint, planned for all of the model's context and for batches
    up to what is wanted. Raises what a compile without weights raises."""
    context = wanted.context
    require_named_dtype(dtype, "glmc fit")
    source = load_config(model, {"dtype": dtype, "max_position_embeddings": context})
    published = source.shape.maximum_positions
    if context is not None and context > published:
        raise UsageError(
            "the model does not know positions that far",
            expected=f"at most {published}",
            found=f"--context {context}",
            remedy="choose a smaller --context",
        )
    buckets = CompileOptions.decode_buckets
    if wanted.batch is not None and wanted.batch > buckets[-1]:
        buckets = (*buckets, wanted.batch)
    options = CompileOptions(
        target=target,
        dtype=dtype,
        max_context=published,
        decode_buckets=buckets,
    )
    few = planned(captured(resolve(source, options)))
    return fit_report(few.manifest, few.plans, wanted)

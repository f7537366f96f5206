"""What a model will take on its device, before it is compiled.

Layers of one kind are alike in a plan: each has weights and caches of the same sizes, and in the
arena one follows the other. So a model of two layers of each kind is compiled, without weights, and
the last of a kind stands for every layer that is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from glmc.artifact.writer import model_facts
from glmc.compiled import manifest_parts
from glmc.compiler import compile_plan
from glmc.config import CompileOptions, require_named_dtype
from glmc.errors import UsageError
from glmc.ir.recipe import Weight
from glmc.job import Job, resolve
from glmc.presets.catalog import load_config, with_fields
from glmc.presets.fields import ModelFields
from glmc_runtime.format.manifest import Manifest, WeightEntry
from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.format.plan import PhasePlan
from glmc_runtime.loading.fit import FitReport, Wanted, fit_report

_FEW = 2
_LAYER = re.compile(r"\blayers\.(\d+)\.")


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
    manifest, plans = whole_plan(resolve(source, options))
    return fit_report(manifest, plans, wanted)


def whole_plan(job: Job) -> tuple[Manifest, dict[PhaseKey, PhasePlan]]:
    """The manifest as a compile without weights writes it, its files aside, and plans that take as
    much memory. Raises what such a compile raises."""
    few, layers = _few_layers(job.source.fields)
    compiled = compile_plan(job.variant(with_fields(job.source, few)))
    parts = manifest_parts(compiled)
    rows = tuple(
        replace(row, layers=tuple(sorted(each for layer in row.layers for each in layers[layer])))
        for row in parts.cache.tensors
    )
    parts = replace(
        parts,
        model=model_facts(job.source.shape),
        cache=replace(parts.cache, tensors=rows),
    )
    weights = {
        name: WeightEntry(
            ("",) * parts.ranks.count, str(weight.dtype).removeprefix("torch."), weight.shape
        )
        for weight in compiled.weights.values()
        for name in _names(weight, layers)
    }
    manifest = Manifest(**vars(parts), weights=weights, weights_included=False, files={})
    return manifest, compiled.plans


def _names(weight: Weight, layers: dict[int, range]) -> Iterator[str]:
    """The weights of the whole model that one of the small model stands for."""
    layer = _LAYER.search(weight.name)
    if layer is None:
        yield weight.name
        return
    start, end = layer.span(1)
    for number in layers[int(layer[1])]:
        yield f"{weight.name[:start]}{number}{weight.name[end:]}"


def _few_layers(fields: ModelFields) -> tuple[ModelFields, dict[int, range]]:
    """A model of few layers of each kind, and which of the whole one each stands for."""
    layers: dict[int, range] = {}
    few: list[int] = []
    begin = 0
    for count in (fields.dense_layers, fields.moe_layers):
        few.append(min(count, _FEW))
        for number in range(few[-1]):
            last = begin + (count if number == few[-1] - 1 else number + 1)
            layers[len(layers)] = range(begin + number, last)
        begin += count
    moe = None if fields.moe is None else replace(fields.moe, first_k_dense_replace=few[0])
    return replace(fields, num_hidden_layers=len(layers), moe=moe), layers

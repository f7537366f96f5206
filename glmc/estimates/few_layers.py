"""A model of few layers that stands for a whole one.

Layers of one kind are alike in a plan: each has weights and caches of the same sizes, and in the
arena one follows the other. So a model of two layers of each kind is compiled, without weights, and
the last of a kind stands for every layer that is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from glmc.artifact.writer import model_facts
from glmc.compiled import Compiled, Fused, manifest_parts
from glmc.compiler import back_end, dealt, fused
from glmc.config import CompileOptions
from glmc.garbage import rare_collections
from glmc.ir.program import Program
from glmc.ir.recipe import Weight
from glmc.job import Job, resolve
from glmc.pipeline import runner
from glmc.presets.catalog import ModelSource, with_fields
from glmc.presets.fields import ModelFields
from glmc_runtime.format.manifest import Manifest, WeightEntry
from glmc_runtime.format.memory import MemoryNeeds, memory_needs
from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.format.plan import PhasePlan

_FEW = 2
_LAYER = re.compile(r"\blayers\.(\d+)\.")


@dataclass(frozen=True)
class FewLayers:
    """Few layers after the passes that fuse; ``layers`` says which of the whole model each stands
    for. ``job`` is that of the whole model, ``few`` the source of the small one."""

    job: Job
    few: ModelSource
    fused: Fused
    layers: Mapping[int, range]


@dataclass(frozen=True)
class FewPlans:
    """The plans of few layers for one set of options, and the programs that were lowered."""

    layers: Mapping[int, range]
    compiled: Compiled
    programs: Mapping[PhaseKey, Program]
    manifest: Manifest

    @property
    def plans(self) -> dict[PhaseKey, PhasePlan]:
        return self.compiled.plans

    @property
    def needs(self) -> MemoryNeeds:
        """What the whole model takes on a card."""
        return memory_needs(self.manifest, self.plans)


def captured(job: Job) -> FewLayers:
    """Capture and passes of few layers. Raises what a compile without weights raises."""
    fields, layers = few_layers(job.source.fields)
    few = with_fields(job.source, fields)
    small = resolve(few, job.options)
    small.require_supported()
    with rare_collections():
        return FewLayers(job, few, fused(small), layers)


def planned(model: FewLayers, options: CompileOptions | None = None) -> FewPlans:
    """Plans that take as much memory as those of the whole model, and the manifest as a compile
    without weights writes it, its files aside. ``options`` may deal it to other ranks than those
    of the model's job. Raises what such a compile raises."""
    job, layers = resolve(model.few, options or model.job.options), model.layers
    front = dealt(model.fused, job)
    compiled = back_end(front, job)
    parts = manifest_parts(compiled)
    rows = tuple(
        replace(row, layers=tuple(sorted(each for layer in row.layers for each in layers[layer])))
        for row in parts.cache.tensors
    )
    parts = replace(
        parts,
        model=model_facts(model.job.source.shape),
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
    programs = {
        key: runner.merge(program, job.target.rules)[0]  # as the back end does
        for key, program in front.phases.programs.items()
    }
    return FewPlans(layers, compiled, programs, manifest)


def few_layers(fields: ModelFields) -> tuple[ModelFields, dict[int, range]]:
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


def _names(weight: Weight, layers: Mapping[int, range]) -> Iterator[str]:
    """The weights of the whole model that one of the small model stands for."""
    layer = _LAYER.search(weight.name)
    if layer is None:
        yield weight.name
        return
    start, end = layer.span(1)
    for number in layers[int(layer[1])]:
        yield f"{weight.name[:start]}{number}{weight.name[end:]}"

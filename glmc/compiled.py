"""A compile before it is written: what the front end made, and what a target made of it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from glmc.artifact.writer import ManifestParts, model_facts
from glmc.errors import InternalError
from glmc.ir.program import Program
from glmc.ir.recipe import Weight
from glmc.job import Job
from glmc.lowering.lower import Lowered
from glmc.pipeline.records import PassRecord, Phases
from glmc.report import Report
from glmc_runtime.format.cache import CacheSpec, CacheTensor
from glmc_runtime.format.manifest import Guards, Limits, Ranks, phase_entry
from glmc_runtime.format.messages import collective_calls
from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.format.plan import PhasePlan
from glmc_runtime.format.values import Values
from glmc_runtime.kernels import is_vendor

MINIMUM_TORCH = "2.5"


@dataclass(frozen=True)
class FrontEnd:
    """A model after capture and passes, and the ATen operations of its eager code. Jobs of several
    targets can share it: see :attr:`Job.front`."""

    job: Job
    phases: Phases
    eager: Mapping[str, Any]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Fused:
    """A model after the passes that fuse, before paging: ``records`` are theirs."""

    program: Program
    records: tuple[PassRecord, ...]
    eager: Mapping[str, Any]


@dataclass(frozen=True)
class Compiled:
    """The result of a compile before it is written."""

    job: Job
    phases: Mapping[PhaseKey, Lowered]
    report: Report

    @property
    def weights(self) -> dict[str, Weight]:
        phases = self.phases.values()
        return {name: weight for phase in phases for name, weight in phase.weights.items()}

    @property
    def caches(self) -> tuple[CacheTensor, ...]:
        """The paged cache, which all phases share; raises InternalError where they differ."""
        first, *others = (phase.caches for phase in self.phases.values())
        for other in others:
            if other != first:
                raise InternalError(
                    "two phases have another cache", expected=str(first), found=str(other)
                )
        return first

    @property
    def plans(self) -> dict[PhaseKey, PhasePlan]:
        return {key: phase.plan for key, phase in self.phases.items()}

    @property
    def values(self) -> Values:
        """What the calls of each plan complete."""
        return Values({key.phase: lowered.values for key, lowered in self.phases.items()})


def manifest_parts(compiled: Compiled) -> ManifestParts:
    """What the manifest says of a compile, weights aside."""
    job, lowering = compiled.job, compiled.job.lowering
    shape = job.source.shape
    dtype = str(lowering.dtype).removeprefix("torch.")
    versions = {name: importlib.metadata.version(name) for name in ("glmc", "transformers")}
    runtime = importlib.metadata.version("glmc-runtime")
    return ManifestParts(
        target=job.target.name,
        dtype=dtype,
        abi_profile=lowering.abi_profile,
        deterministic=lowering.deterministic,
        versions={**versions, "torch": torch.__version__, "glmc-runtime": runtime},
        model=model_facts(shape),
        cache=CacheSpec(
            tensors=compiled.caches,
            block_size=lowering.block_size,
            blocks_per_sequence=lowering.blocks_per_sequence,
            layout=job.target.cache_layout,
        ),
        limits=Limits(lowering.max_context),
        phases=tuple(
            phase_entry(
                key,
                job.options.buckets[key.phase],
                {"sequences": lowering.max_sequences},
                lowering.ranks,
            )
            for key in compiled.phases
        ),
        ranks=Ranks(
            lowering.ranks,
            job.options.expert_parallel,
            collective_calls(compiled.plans.values()),
        ),
        guards=Guards(
            minimum_runtime=runtime,
            minimum_torch=MINIMUM_TORCH,
            target=job.target.name,
            vendor_functions=_vendor_functions(compiled.plans.values()),
        ),
    )


def _vendor_functions(plans: Any) -> dict[str, tuple[str, ...]]:
    """Each vendor function of the plans with all keywords that it is called with."""
    by_function: dict[str, set[str]] = {}
    for plan in plans:
        for call in plan.calls:
            if is_vendor(call.function):
                by_function.setdefault(call.function, set()).update(call.arguments)
    return {name: tuple(sorted(keywords)) for name, keywords in sorted(by_function.items())}

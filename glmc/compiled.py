"""A compile before it is written: what the front end made, and what a target made of it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from glmc.artifact.writer import ManifestParts, model_facts
from glmc.capture.model import CaptureOptions
from glmc.config import CompileOptions
from glmc.ir.recipe import Weight
from glmc.lowering.lower import Lowered
from glmc.lowering.target import LoweringOptions, Target
from glmc.pipeline import stages as pipeline
from glmc.pipeline.selection import Selection
from glmc.presets.catalog import ModelSource
from glmc.report import Report
from glmc_runtime.format.manifest import CacheSpec, Guards, Limits
from glmc_runtime.format.plan import PhasePlan
from glmc_runtime.kernels import is_vendor

Progress = Callable[[str, int, int], None]


MINIMUM_TORCH = "2.5"


@dataclass(frozen=True)
class FrontEnd:
    """A model after capture and passes. Targets that agree on dtype, block size and the way of
    capture can share it."""

    source: ModelSource
    dtype: torch.dtype
    block_size: int
    how: CaptureOptions
    phases: pipeline.Phases
    seconds: Mapping[str, float]
    selection: Selection


@dataclass(frozen=True)
class Compiled:
    """The result of a compile before it is written."""

    source: ModelSource
    options: CompileOptions
    lowering: LoweringOptions
    target: Target
    prefill: Lowered
    decode: Lowered
    report: Report

    @property
    def weights(self) -> dict[str, Weight]:
        return {**self.prefill.weights, **self.decode.weights}

    @property
    def phases(self) -> dict[str, PhasePlan]:
        return {"prefill": self.prefill.plan, "decode": self.decode.plan}


def manifest_parts(compiled: Compiled) -> ManifestParts:
    """What the manifest says of a compile, weights aside."""
    source, lowering = compiled.source, compiled.lowering
    shape = source.shape
    dtype = str(lowering.dtype).removeprefix("torch.")
    versions = {name: importlib.metadata.version(name) for name in ("glmc", "transformers")}
    runtime = importlib.metadata.version("glmc-runtime")
    return ManifestParts(
        target=compiled.target.name,
        dtype=dtype,
        abi_profile=lowering.abi_profile,
        versions={**versions, "torch": torch.__version__, "glmc-runtime": runtime},
        model=model_facts(shape),
        cache=CacheSpec(
            layers=shape.layers,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            dtype=dtype,
            block_size=lowering.block_size,
            blocks_per_sequence=lowering.blocks_per_sequence,
            layout=compiled.target.cache_layout,
        ),
        limits=Limits(
            lowering.max_context,
            compiled.options.decode_buckets,
            compiled.options.prefill_buckets,
        ),
        guards=Guards(
            minimum_runtime=runtime,
            minimum_torch=MINIMUM_TORCH,
            target=compiled.target.name,
            vendor_functions=_vendor_functions(compiled.phases.values()),
        ),
    )


def _vendor_functions(plans: Any) -> dict[str, tuple[str, ...]]:
    """Each vendor function of the plans with all keywords that it is called with."""
    found: dict[str, set[str]] = {}
    for plan in plans:
        for call in plan.calls:
            if is_vendor(call.function):
                found.setdefault(call.function, set()).update(call.arguments)
    return {name: tuple(sorted(keywords)) for name, keywords in sorted(found.items())}

"""glmc: compile GLM-4.x for Kunlun XPU, CUDA and CPU.

import glmc
glmc.compile("models/tiny-moe", "out/tiny-moe.xpu", target="xpu")
session = glmc.load("out/tiny-moe.xpu")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from glmc_runtime.package.moved import MovedModules

if TYPE_CHECKING:
    import torch

    from glmc.estimates.estimate import Estimate
    from glmc.report import Report
    from glmc_runtime.generate.session import Session

__all__ = ["__version__", "compile", "estimate", "load"]

__version__ = "0.1.0"

MovedModules(
    __name__,
    {
        "check": ("bisect", "verify"),
        "observe": ("dump", "history", "page"),
        "pipeline": ("extensions", "selection"),
    },
    {"driver": "compiler", "pipeline_file": "pipeline.yaml_file"},
).install()


class CompileKeywords(TypedDict, total=False):
    """Keywords of :func:`compile`, with the defaults of :class:`glmc.config.CompileOptions`."""

    target: str
    dtype: str | torch.dtype | None
    abi_profile: str | None
    max_context: int | None
    block_size: int
    decode_buckets: int | Iterable[int]
    prefill_buckets: int | Iterable[int]
    weights: str
    seed: int
    allow_missing: bool
    force: bool
    full_capture: bool
    capture_attention: str
    capture_experts: str
    marked: bool
    passes_on: str | Iterable[str]
    passes_off: str | Iterable[str]
    pipeline: str | PathLike[str] | None
    calibration_prompt: str | None
    deterministic: str | None
    tensor_parallel: int
    expert_parallel: bool
    collectives: str | None


class LoadKeywords(TypedDict, total=False):
    """Keywords of :func:`glmc_runtime.load`, which says what they mean."""

    verify_hashes: bool
    kv_blocks: int | None
    kv_memory_bytes: int | None
    emulate: bool | None
    device: str | torch.device | None
    timing: bool
    guard_steps: int
    profile_ranges: bool
    prefill_graphs: bool
    progress: Callable[[int, int], object] | None
    weights: Mapping[str, torch.Tensor] | None
    process_group: Any
    backend: str | None
    checkpoint: str | PathLike[str] | None


def compile(model: str | Path, output: str | Path, **options: Unpack[CompileKeywords]) -> Report:
    """Compile ``model``, a checkpoint directory or a preset's name, into the artifact ``output``.

    ``target`` is "cpu", "cuda", "xpu" or that of an installed distribution; ``dtype`` that of
    activations (None: the checkpoint's; "auto" on xpu: float16 where weights, and activations on
    ``calibration_prompt``, are within its range, else bfloat16); ``abi_profile`` the vendor
    library's calling convention on xpu, "P-A", "P-B" or "P-C". ``max_context`` bounds prompt and
    answer in tokens (None: the model's, at most 8192); ``block_size`` is in tokens of the KV cache;
    ``decode_buckets`` are batch sizes and ``prefill_buckets`` numbers of packed tokens, ascending.
    ``weights`` are "checkpoint", "from-checkpoint" (made of it at each load, nothing is copied),
    "from-engine" (made of the tensors that a serving engine loads; only config.json is read),
    "random" (drawn from ``seed``) or "none" (a plan alone).
    ``allow_missing`` goes on where a fusion is missing, ``force`` replaces ``output``.
    ``full_capture`` traces every layer; ``capture_attention``, ``capture_experts`` and ``marked``
    say how the model is spelled while it is traced, on which no plan depends. ``passes_on`` and
    ``passes_off`` name passes to add and to leave out, ``pipeline`` a file with their order
    (docs/writing_a_pass.md). ``deterministic`` is "batch" for bits that do not depend on what runs
    beside a text, "ranks" for bits that do not depend on the number of ranks either.
    ``tensor_parallel`` is the number of ranks that the model is dealt to, a device each; with
    ``expert_parallel`` each has some of the experts whole, not a part of each, and ``collectives``
    is the text of a table that ``glmc tune-collectives`` wrote (None: the target's).

    Returns the report. Raises a :class:`glmc.errors.GlmcError`, and leaves nothing at ``output``
    then.
    """
    from glmc.compiler import compile_model
    from glmc.config import compile_options
    from glmc.errors import UsageError
    from glmc.estimates.rates import rates_for
    from glmc_runtime.arguments import path

    resolved = compile_options(options)
    source = model if isinstance(model, Path) else path("model", model, refuse=UsageError)
    return compile_model(source, path("output", output, refuse=UsageError), resolved, rates_for)


def load(path: str | PathLike[str], **options: Unpack[LoadKeywords]) -> Session:
    """Load an artifact for replay: :func:`glmc_runtime.load`, whose keywords ``options`` are."""
    import glmc_runtime

    return glmc_runtime.load(path, **options)


class EstimateKeywords(TypedDict, total=False):
    """Keywords of :func:`estimate`, which says what they mean."""

    batches: int | Iterable[int]
    context: int | None
    prompt: int | None
    dtype: str | torch.dtype | None
    cards: int
    tensor_parallel: int | None
    expert_parallel: bool
    collectives: str | None


def estimate(model: str | Path, device: str, **options: Unpack[EstimateKeywords]) -> Estimate:
    """Predict what ``model``, a checkpoint directory or a preset's name, takes of ``device``.

    ``device`` is "h200", "p800", "cpu" or the path of a description (docs/estimate.md). No weight
    is read. ``batches`` are numbers of sequences that are decoded at once, each of ``context``
    tokens (None: 8192, or all that the model knows); ``prompt`` tokens are computed in one step
    (None: 512).
    ``dtype`` is that of activations (None: the checkpoint's). The model is dealt to
    ``tensor_parallel`` of the ``cards``, with ``expert_parallel`` experts whole; None: every way is
    looked at, and the best is ``placed``. ``collectives`` is the text of a table that ranks go by
    (None: the target's); the times of one that was measured are taken.

    Returns memory, floors and times, with :func:`glmc.estimates.words.to_json` as data. Raises a
    :class:`glmc.errors.GlmcError`.
    """
    from glmc.config import CompileOptions
    from glmc.estimates.estimate import estimate as estimated
    from glmc.estimates.traffic import traffic_of

    unknown = set(options) - set(EstimateKeywords.__annotations__)
    if unknown:
        raise TypeError(f"glmc.estimate has no option '{min(unknown)}'")
    dtype = CompileOptions(dtype=options.get("dtype")).dtype  # type: ignore[arg-type]
    return estimated(
        model,
        device,
        traffic_of(options),
        dtype,
        options.get("cards") or options.get("tensor_parallel") or 1,
        options.get("tensor_parallel"),
        options.get("expert_parallel", False),
        options.get("collectives"),
    )


def __dir__() -> list[str]:
    return sorted(__all__)

"""A job: what one compile needs, resolved once and handed down."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from glmc.backends import target_by_name
from glmc.capture.model import CaptureOptions
from glmc.capture.routers import ROUTER, router_dtype
from glmc.config import (
    AUTO,
    DEFAULT_PROFILE,
    FROM_CHECKPOINT,
    FROM_ENGINE,
    WEIGHED,
    CompileOptions,
    require_named_dtype,
)
from glmc.dtype_choice import DtypeChoice, as_stored
from glmc.errors import LoweringError, UsageError
from glmc.lowering.ordered_sums import MOST_SEGMENTS
from glmc.lowering.target import LoweringOptions, Target
from glmc.out_of_memory import memory_errors
from glmc.passes.base import Pass
from glmc.passes.shard import Shard
from glmc.pipeline.expectations import enforced_counts
from glmc.pipeline.extensions import with_rules
from glmc.pipeline.selection import Selection
from glmc.pipeline.selection import selection as selection_of
from glmc.presets.catalog import ModelSource, load_config
from glmc.presets.matches import expected_collectives
from glmc.weights.checkpoint import open_checkpoint
from glmc.weights.engine import HandedOver
from glmc.weights.files import WeightFiles, read_files
from glmc.weights.random import RandomWeights
from glmc.weights.source import WeightSource

LONGEST_DEFAULT_CONTEXT = 8192
READING = "reading the checkpoint"
WEIGHING = torch.bfloat16
"""The dtype of a job until ``--dtype auto`` is decided: what it falls back on."""


@dataclass(frozen=True)
class Job:
    """``target`` has the rules of added passes; ``dtype`` is that of the compile, ``capture`` the
    way of it. ``files`` are the tensors by the headers of the checkpoint: None where no weights of
    it are wanted, and where there is only config.json, of which a plan can be made all the same.
    ``choice`` is how ``--dtype auto`` was decided: None where a dtype was named, or not decided yet
    (glmc/range_check/decide.py).
    """

    source: ModelSource
    options: CompileOptions
    selection: Selection
    target: Target
    lowering: LoweringOptions
    capture: CaptureOptions
    dtype: torch.dtype
    files: WeightFiles | None
    choice: DtypeChoice | None = None

    @cached_property
    def weights(self) -> WeightSource | None:
        """What is packed, opened when it is first asked for; None with ``--no-weights``.

        Raises UsageError for a preset, which has none, and CheckpointError.
        """
        source, options = self.source, self.options
        if options.weights == "none":
            return None
        if options.weights == FROM_ENGINE:
            return HandedOver(source.fields)
        if options.weights == "random":
            return RandomWeights(source.fields, self.dtype, options.seed)
        if source.directory is None:
            raise UsageError(
                f"'{source.name}' is a preset, which has no weights",
                expected="--no-weights, --random-weights or a checkpoint directory",
                remedy="add --no-weights to compile the plan alone",
            )
        return open_checkpoint(source.directory, source.fields, self.files)

    @property
    def router_dtype(self) -> torch.dtype:
        """The dtype in which the routers' weights are stored."""
        if self.options.weights == FROM_ENGINE:  # no file is read: those of the checkpoint's dtype
            return router_dtype((self.source.dtype,), self.dtype)
        tensors = {} if self.files is None else self.files.tensors
        stored = (entry.dtype for name, entry in tensors.items() if name.endswith(ROUTER))
        return router_dtype(stored, self.dtype)

    @property
    def expected_matches(self) -> dict[str, int]:
        """The match counts that must hold."""
        expected = dict(self.source.expected_matches)
        if self.dealt is not None and not self.selection.off and not self.selection.added:
            several = self.dealt.ranks > 1
            found = expected_collectives(self.source.fields).values() if several else ()
            expected[self.dealt.name] = sum(found)
        return enforced_counts(expected, self.selection)

    @property
    def dealt(self) -> Shard | None:
        """How the model is dealt to ranks, None for one: but where other numbers of ranks are to
        give the same bits, one adds up what they would have."""
        options = self.options
        shares = MOST_SEGMENTS if options.deterministic == "ranks" else None
        if options.tensor_parallel == 1 and shares is None:
            return None
        multiple = self.target.column_multiple
        return Shard(options.tensor_parallel, options.expert_parallel, multiple, shares)

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes that the options choose: those that fuse, and the one that deals."""
        return (*self.selection.passes, *(() if self.dealt is None else (self.dealt,)))

    @property
    def front(self) -> tuple[object, ...]:
        """What capture and passes go by, the model aside: jobs that agree on it share them."""
        return (self.dtype, self.options.block_size, self.capture, self.selection, self.dealt)

    @property
    def undecided(self) -> bool:
        """Whether ``--dtype auto`` has yet to be decided."""
        return self.options.dtype == AUTO and self.choice is None

    def require_supported(self) -> None:
        """Raise LoweringError, AbiError or UsageError for what the target is known to refuse."""
        if self.undecided:
            require_named_dtype(self.options.dtype, "this command")
        if self.options.expert_parallel and self.source.fields.moe is None:
            raise UsageError(
                "the model has no experts that could be dealt to ranks",
                place=self.source.name,
                found="--expert-parallel",
                remedy="drop --expert-parallel",
            )
        if self.dtype not in self.target.dtypes:
            known = ", ".join(str(item).removeprefix("torch.") for item in self.target.dtypes)
            dtype = str(self.dtype).removeprefix("torch.")
            raise LoweringError(
                f"{self.target.name} does not compute in {dtype}",
                expected=known,
                found=dtype,
                remedy="choose another --dtype",
            )
        if self.options.deterministic and self.dtype == torch.float16:
            raise LoweringError(
                "no kernel with a fixed order of sums computes in float16",
                expected="float32 or bfloat16",
                found=f"float16 --deterministic={self.options.deterministic}",
                remedy="choose another --dtype, or leave out --deterministic",
            )
        self.target.check(self.lowering, self.source.shape)

    def decided(self, choice: DtypeChoice) -> Job:
        """The job in the dtype of ``choice``."""
        dtype: torch.dtype = getattr(torch, choice.dtype)
        lowering = replace(self.lowering, dtype=dtype)
        return replace(self, dtype=dtype, lowering=lowering, choice=choice)

    def variant(
        self,
        source: ModelSource | None = None,
        *,
        dtype: torch.dtype | None = None,
        block_size: int | None = None,
    ) -> Job:
        """The job of a part of the model, or in another dtype or block size; nothing is read."""
        source = source or self.source
        options = replace(
            self.options,
            dtype=str(dtype or self.dtype).removeprefix("torch."),
            block_size=block_size or self.options.block_size,
            calibration_prompt=None,
        )
        files = self.files if source.directory == self.source.directory else None
        return _job(source, options, self.selection, self.target, files)


def read_job(model: str | Path, options: CompileOptions) -> Job:
    """The job of compiling ``model``, a preset's name or a checkpoint directory.

    Raises UsageError and ExtensionError for passes that can't be selected, ConfigError, and
    CheckpointError for files whose headers can't be read.
    """
    with memory_errors(lambda: READING):
        selection = selection_of(options)
        return _resolved(load_config(model, options.supplied), options, selection)


def resolve(source: ModelSource, options: CompileOptions) -> Job:
    """As :func:`read_job`, of a model whose config was read."""
    return _resolved(source, options, selection_of(options))


def _resolved(source: ModelSource, options: CompileOptions, selection: Selection) -> Job:
    folder, files = source.directory, None
    read = options.weights in ("checkpoint", FROM_CHECKPOINT)
    if read and folder is not None and any(folder.glob("*.safetensors")):
        files = read_files(folder)
    target = target_by_name(options.target).promising(options.deterministic)
    target = with_rules(target, selection.added)
    return _job(source, options, selection, target, files)


def _job(
    source: ModelSource,
    options: CompileOptions,
    selection: Selection,
    target: Target,
    files: WeightFiles | None,
) -> Job:
    dtype, choice = _dtype(source, options)
    capture = CaptureOptions(
        options.capture_attention,
        options.capture_experts,
        options.marked,
        folded=not options.full_capture,
    )
    lowering = _lowering(source, options, dtype)
    return Job(source, options, selection, target, lowering, capture, dtype, files, choice)


def _dtype(source: ModelSource, options: CompileOptions) -> tuple[torch.dtype, DtypeChoice | None]:
    """The dtype of a job, and how ``auto`` was decided where nothing need be read for it."""
    if options.dtype != AUTO:
        return getattr(torch, options.dtype) if options.dtype else source.dtype, None
    if options.target in WEIGHED:
        return WEIGHING, None
    return source.dtype, as_stored(str(source.dtype).removeprefix("torch."), options.target)


def _lowering(source: ModelSource, options: CompileOptions, dtype: torch.dtype) -> LoweringOptions:
    published = source.shape.maximum_positions
    context = options.max_context or min(published, LONGEST_DEFAULT_CONTEXT)
    if context > published:
        raise UsageError(
            "the model does not know positions that far",
            expected=f"at most {published}: max_position_embeddings of config.json, or as far as "
            "the factor of its rope reaches",
            found=f"--max-context {context}",
            remedy="choose a smaller --max-context, or switch YaRN on as the model card says",
        )
    profile = (options.abi_profile or DEFAULT_PROFILE) if options.target == "xpu" else None
    return LoweringOptions(
        dtype=dtype,
        max_context=context,
        block_size=options.block_size,
        max_sequences=options.decode_buckets[-1],
        max_tokens=options.prefill_buckets[-1],
        abi_profile=profile,
        deterministic=options.deterministic,
        ranks=options.tensor_parallel,
    )

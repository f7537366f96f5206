"""The verified part of a model: all of it, or one layer of each kind of a big one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from glmc.check.verify.cases import Case, cases, real_prompts
from glmc.check.verify.random_weights import RandomPool
from glmc.check.verify.weights import ModelWeights
from glmc.ir.tolerance import LONGEST
from glmc.job import Job
from glmc.presets.catalog import ModelSource, with_fields
from glmc.presets.fields import ModelFields
from glmc.presets.parameters import parameter_count
from glmc.weights.checkpoint import Checkpoint

# Parameters of a model that is verified whole: with float32 and a case's own weights 0.5 GB.
LARGEST_WHOLE = 1 << 26
# Of a part: rows of the embedding and the head.
VOCABULARY = 2048
# Tokens of a step at full width: eager experts gather the weights of each token's own.
FEW = 3
# Widths of the narrow model: hidden, dense and expert.
_NARROW = (256, 384, 64)


@dataclass(frozen=True)
class VerifiedPart:
    """``source`` is what is captured in place of the model; ``text`` says so. ``layers`` maps its
    layers to the model's. ``dtype`` is the one in which it is verified."""

    source: ModelSource
    dtype: torch.dtype
    weights: ModelWeights
    cases: tuple[Case, ...]
    text: str
    layers: Mapping[int, int]

    def job(self, job: Job, block_size: int | None = None) -> Job:
        """That of the compile, for this part of the model in this dtype."""
        return job.variant(self.source, dtype=self.dtype, block_size=block_size)


def is_whole(source: ModelSource) -> bool:
    """Whether the model is small enough for all its layers."""
    return source.shape.parameters <= LARGEST_WHOLE


def whole(job: Job, dtype: torch.dtype) -> VerifiedPart:
    """All layers, with the checkpoint's weights and prompts where the compile has them."""
    source = job.source
    layers = source.fields.num_hidden_layers
    weights = model_weights(job)
    text = f"all {layers} layer{'s' if layers > 1 else ''}, {weights.description}"
    numbers = {layer: layer for layer in range(layers)}
    return VerifiedPart(source, dtype, weights, model_cases(source), text, numbers)


def model_cases(source: ModelSource) -> tuple[Case, ...]:
    """The inputs for a whole model: real prompts where it has a tokenizer."""
    return cases(
        source.shape.vocabulary,
        routed=source.fields.moe_layers > 0,
        texts=real_prompts(source.directory),
    )


def model_weights(job: Job) -> ModelWeights:
    """Those of the checkpoint, or random ones where there is none or none are wanted.

    Random ones are rounded to the model's dtype, so that every dtype computes with the same.
    """
    source = job.source
    if source.directory is not None and isinstance(job.weights, Checkpoint):
        return ModelWeights(job.weights)
    return _random(source.fields, source.dtype, torch.float32)


def full_width(source: ModelSource, dtype: torch.dtype) -> VerifiedPart:
    """One layer of each kind at full width, few tokens, every matrix a window of one pool."""
    fields, layers = _one_of_each_kind(source.fields)
    weights = _random(fields, dtype, dtype)
    some = cases(fields.vocab_size, routed=False, longest=FEW)
    names = ("random tokens", "one token")
    selected = tuple(case for case in some if case.name in names)
    text = f"{_named(layers)} at full width, random weights, vocabulary {fields.vocab_size}"
    return VerifiedPart(_source(source, fields), dtype, weights, selected, text, layers)


def narrow(source: ModelSource, dtype: torch.dtype) -> VerifiedPart:
    """One layer of each kind with the heads and experts of the model, narrow, for every case."""
    fields, layers = _one_of_each_kind(source.fields)
    hidden, dense, expert = _NARROW
    moe = fields.moe
    if moe is not None:
        moe = replace(moe, moe_intermediate_size=min(moe.moe_intermediate_size, expert))
    fields = replace(
        fields,
        hidden_size=min(fields.hidden_size, hidden),
        intermediate_size=min(fields.intermediate_size, dense),
        moe=moe,
    )
    weights = _random(fields, source.dtype, torch.float32)
    every = cases(fields.vocab_size, routed=fields.moe_layers > 0, longest=LONGEST)
    text = f"{_named(layers)}, narrow (hidden {fields.hidden_size}), random weights"
    return VerifiedPart(_source(source, fields), dtype, weights, every, text, layers)


def _one_of_each_kind(fields: ModelFields) -> tuple[ModelFields, dict[int, int]]:
    dense, routed = fields.dense_layers, fields.moe_layers
    layers = [0] * bool(dense) + [dense] * bool(routed)
    moe = fields.moe
    if moe is not None:
        moe = replace(moe, first_k_dense_replace=int(bool(dense)))
    fields = replace(
        fields,
        num_hidden_layers=len(layers),
        vocab_size=min(fields.vocab_size, VOCABULARY),
        eos_token_ids=(1,),
        moe=moe,
    )
    return fields, dict(enumerate(layers))


def _source(source: ModelSource, fields: ModelFields) -> ModelSource:
    return replace(with_fields(source, fields), directory=None)


def _random(fields: ModelFields, rounded: torch.dtype, dtype: torch.dtype) -> ModelWeights:
    pool = RandomPool(fields, dtype, rounded)
    return ModelWeights(pool, keep=parameter_count(fields) <= LARGEST_WHOLE)


def _named(layers: Mapping[int, int]) -> str:
    numbers = " and ".join(map(str, layers.values()))
    return f"layer{'s' if len(layers) > 1 else ''} {numbers}"

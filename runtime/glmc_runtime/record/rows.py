"""The rows of a value that are real: without the padding of a bucket, and of a cache what a step
wrote."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from glmc_runtime.format.cache import CacheSpec
from glmc_runtime.format.extent import Shape
from glmc_runtime.replay.step import Step

SEQUENCES = "sequences"


def real_rows(whole: Tensor, shape: Shape, step: Step) -> Tensor:
    """Of a tensor at the size of the step's bucket. What has a row for each sequence has those
    whose logits are wanted: a prompt that is cut into several replays ends in the last of them."""
    sizes: Mapping[str, int] = step.real
    real = whole[tuple(slice(0, extent.evaluate(sizes)) for extent in shape)]
    wanted = [row for row, chunk in enumerate(step.chunks) if chunk.logits]
    if len(wanted) == len(step.chunks) or not shape or shape[0].symbols != (SEQUENCES,):
        return real
    return real[wanted]


def written_rows(cache: Tensor, spec: CacheSpec, step: Step) -> Tensor:
    """What a step wrote into a tensor of the cache, [tokens, heads, head_dim]: packed as the tokens
    of the step are."""
    slots = torch.tensor(list(step.column("slot_mapping")[: step.real["tokens"]]))
    slots = slots.to(cache.device)
    blocks, offsets = slots // spec.block_size, slots % spec.block_size
    if spec.layout == "blocks_heads_tokens" and cache.dim() > 3:
        return cache[blocks, :, offsets]
    return cache[blocks, offsets]

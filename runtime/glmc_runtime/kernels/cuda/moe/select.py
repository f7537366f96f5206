"""The routed experts and the shared one: the choice of a kernel variant by number of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import (
    in_order,
    require_dtype,
    require_like,
    require_one_device,
    require_shape,
)
from glmc_runtime.kernels.cuda.moe import by_expert, by_token, grouped_mm, sorted_tiles, tma_tiles
from glmc_runtime.kernels.cuda.moe.common import Configuration, Experts, read_call
from glmc_runtime.kernels.cuda.moe.local_ids import bind_local_ids
from glmc_runtime.kernels.cuda.tuned import configuration as tuned_configuration
from glmc_runtime.kernels.schema import schema, tensor, written
from glmc_runtime.kernels.shared_schemas import EXPERTS, LOCAL_EXPERTS

VARIANTS: dict[str, ModuleType] = {
    "by_token": by_token,
    "by_expert": by_expert,
    "sorted_tiles": sorted_tiles,
    "tma_tiles": tma_tiles,
    "grouped_mm": grouped_mm,
}
MOST_FEW = 2
MOST_SCANNED_PAIRS = {2: 192, 4: 1024}
"""By bytes of an element: every program of "by_expert" looks through all ids. On an H200
"sorted_tiles" is the faster one of bfloat16 from 256 pairs on; float32, without tensor cores, was
not measured."""
MOST_TRIED_PAIRS = 1024
"""With "by_expert": at 2048 it takes 1.2 times as long as "sorted_tiles" there."""

LEAST_TMA_ROWS = 96  # of an expert, on average


def default(call: Experts) -> Configuration:
    """What serves where nothing was measured."""
    if call.tokens <= MOST_FEW:
        return by_token.default(call)
    if call.pairs <= MOST_SCANNED_PAIRS[call.x.element_size()]:
        return by_expert.default(call)
    if call.pairs >= LEAST_TMA_ROWS * call.experts and tma_tiles.can_run(call):
        return tma_tiles.default(call)
    return sorted_tiles.default(call)


def candidates(call: Experts) -> Iterator[Configuration]:
    """Configurations worth measuring, the default first."""
    yield default(call)
    if call.tokens <= 8:
        yield from by_token.candidates(call)
    if call.pairs <= MOST_TRIED_PAIRS:
        yield from by_expert.candidates(call)
    if call.tokens >= 32:
        yield from tma_tiles.candidates(call)
        yield from sorted_tiles.candidates(call)
        yield from grouped_mm.candidates(call)


def choose(call: Experts, override: Configuration | None) -> Configuration:
    """The configuration of a call: the caller's, the measured one or the default, complete."""
    configuration = override
    if configuration is None and not call.is_local:  # one rank's experts were not measured yet
        configuration = tuned_configuration("moe_ffn", call.x.dtype, call.key, call.tokens)
    if configuration is None:
        return default(call)
    variant = configuration.get("variant", default(call)["variant"])
    if variant not in VARIANTS:
        raise PlanError(
            f"there is no variant '{variant}' to run experts",
            expected="one of " + ", ".join(VARIANTS),
            remedy="name one of them; where a table of the device has it, tune again",
        )
    if override is None and variant == "tma_tiles" and not tma_tiles.can_run(call):
        return default(call)  # a table's key does not say how the tensors lie
    base: Configuration = VARIANTS[variant].default(call)
    return {**base, **configuration}


@register(
    "cuda.moe_ffn",
    schema(
        *EXPERTS,
        tensor("shared_gate_up", "2*shared_width hidden", like="x", required=False),
        tensor("shared_down", "hidden shared_width", like="x", required=False),
        together=(("shared_gate_up", "shared_down"),),
    ),
)
def moe_ffn(arguments: dict[str, Any]) -> Thunk:
    """x and out [tokens, hidden], weights float32 and ids int64 [tokens, top_k], gate_up [experts,
    2 * width, hidden] (gate rows first), down [experts, hidden, width]; both or neither of
    shared_gate_up [2 * shared width, hidden] and shared_down [hidden, shared width].

    Products with the weights and their sum are float32, cast once; the shared expert's result is
    added after that, rounded again. ``configuration`` overrides what was measured.
    """
    return _bound(read_call(arguments), arguments)


@register(
    "cuda.local_moe_ffn",
    schema(*LOCAL_EXPERTS, written("local_ids", "tokens top_k", "int64")),
)
def local_moe_ffn(arguments: dict[str, Any]) -> Thunk:
    """As ``cuda.moe_ffn`` of routed experts, with those from ``first`` (int64 [1]) on alone: pairs
    of others are skipped by a launch that gives each pair its expert here, or none."""
    ids, first, local_ids = arguments["ids"], arguments["first"], arguments["local_ids"]
    require_dtype("first", first, torch.int64)
    require_shape("first", first, (1,))
    require_like("local_ids", local_ids, ids)
    call = read_call({**arguments, "ids": local_ids}, is_local=True)
    require_one_device(call.x, first, ids)
    return in_order(bind_local_ids(call, ids, first), _bound(call, arguments))


def _bound(call: Experts, arguments: dict[str, Any]) -> Thunk:
    configuration = choose(call, arguments.get("configuration"))
    thunk: Thunk = VARIANTS[configuration["variant"]].bind(call, configuration)
    return thunk

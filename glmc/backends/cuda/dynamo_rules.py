"""Rules of CUDA in a traced program, where a weight may be a value of the step.

Kernels for CUDA read their weights before the kernel before them has ended (see
``kernels/cuda/launch.py``). That is right for what nobody writes in a step, and for nothing else:
with any other weight a node is left to ATen. So is one of several dtypes, such as a norm whose
weight is in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from glmc.backends.dynamo_rules import Scratch, TracedRules
from glmc.ir.ops import OPS
from glmc.lowering.assemble import dtype_name
from glmc.lowering.target import Emitter, Op, Rule, Unsupported, Value
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.plan import WeightArgument, storage_of


def requires_constant_weights(rule: Rule) -> Rule:
    """``rule``, which in a traced program requires constant weights and dtypes that its kernels
    take; in an artifact's program the rule itself."""

    def traced(op: Op, emit: Emitter) -> None:
        if not op.assumes.constant_weights:
            _check_weights(op)
            _check_dtypes(op)
            arguments = {
                name: _wide(item, emit) if name in OPS[op.name].facts.float32 else item
                for name, item in op.arguments.items()
            }
            op = replace(op, arguments=arguments)
        rule(op, emit)

    return traced


def _wide(item: Any, emit: Emitter) -> Any:
    """In float32, into which it goes without a loss."""
    if not isinstance(item, Value):
        return item
    if item.dtype == torch.float32:
        return item
    copy = emit.temporary(f"{item.name}.wide", item.shape, torch.float32)
    emit.call("aten.copy", writes=("out",), source=item, out=copy)
    return copy


def _check_weights(op: Op) -> None:
    for name in OPS[op.name].weights:
        item = op.arguments.get(name)
        if isinstance(item, Value) and not isinstance(storage_of(item.argument), WeightArgument):
            raise Unsupported(f"{op.name} reads '{name}' early, and the step may write it")


def _check_dtypes(op: Op) -> None:
    facts = OPS[op.name].facts
    free = (*facts.float32, *facts.any_dtype)
    dtypes = [
        item.dtype
        for name, item in op.arguments.items()
        if isinstance(item, Value) and item.dtype.is_floating_point and name not in free
    ]
    if len(set(dtypes)) > 1:
        raise Unsupported(f"{op.name} takes one dtype, not {', '.join(map(dtype_name, dtypes))}")


def traced_rules(rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """The rules of an artifact fit for a traced program, and those that only such a one has."""
    return {name: requires_constant_weights(rule) for name, rule in rules.items()} | _OwnMemory(
        "cuda"
    ).rules()


class _OwnMemory(TracedRules):
    """Kernels that keep in registers what others need memory for."""

    def rope_scratch(self, x: Value, pairs: Extent, normed: bool, emit: Emitter) -> Scratch:
        return {}

    def attention_scratch(self, q: Value, keys: Value, emit: Emitter) -> Scratch:
        return {}

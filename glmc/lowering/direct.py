"""Rules that pass an op's arguments on to one kernel: a row in place of a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from glmc.ir.ops import OPS
from glmc.lowering.target import Emitter, Op, Value, fixed
from glmc.lowering.values import as_rows, flat
from glmc_runtime.format.extent import Extent

FLOAT = torch.float32
INDEX = torch.int64
Scratch = dict[str, Any]
"""Temporaries by the kernel's argument names."""
CACHED = {"q": "query", "k_cache": "key_cache", "v_cache": "value_cache"}
"""The kernels' names of the operands of attention over the cache."""


def experts_order(emit: Emitter, rows: Extent) -> Scratch:
    """Work space to sort chosen experts, one of ``rows`` for each."""
    names = ("sorted_ids", "order", "rows")
    return {name: emit.temporary(name, (rows,), INDEX) for name in names}


def experts_rows(op: Op, emit: Emitter) -> Scratch:
    """Work space of the routed experts, a row for each chosen one."""
    x, ids, down = as_rows(op.tensor("x")), op.tensor("ids"), op.tensor("down")
    (tokens, hidden), width = x.shape, down.dim(2)
    rows = tokens * ids.dim(1)
    return {
        "gathered": emit.temporary("gathered", (rows, hidden), x.dtype),
        "results": emit.temporary("results", (rows, hidden), x.dtype),
        "merged": emit.temporary("merged", (rows, fixed(2 * width)), x.dtype),
        "activated": emit.temporary("activated", (rows, fixed(width)), x.dtype),
    }


def passed(op: Op, name: str) -> Any:
    """An argument as what the op's schema says it is."""
    kind = next(
        str(argument.type)
        for argument in OPS[op.name].overload._schema.arguments
        if argument.name == name
    )
    read: Callable[[str], Any] = {
        "Tensor": op.tensor,
        "Optional[Tensor]": op.optional_tensor,
        "int": op.integer,
        "float": op.number,
        "bool": op.flag,
    }[kind]
    return read(name)


def _none(op: Op, emit: Emitter) -> Scratch:
    return {}


@dataclass(frozen=True)
class Direct:
    """The rule of an op that ``kernel`` computes, with ``outputs`` for its results in order.

    Arguments go by the names of the op's schema, or by ``names``; ``dropped`` are not passed. The
    tensors and outputs in ``rows`` are passed as [rows, width], those in ``flat`` as one row.
    ``inputs`` are step inputs in place of operands or beside them, by the kernel's names, and
    ``constants`` what it takes besides. Scratch is asked for before or after the results, which
    decides between buffers of one size in the memory plan. ``host``: it reads host memory.
    """

    kernel: str
    outputs: tuple[str, ...] = ("out",)
    rows: tuple[str, ...] = ()
    flat: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    scratch_first: Callable[[Op, Emitter], Scratch] = _none
    scratch: Callable[[Op, Emitter], Scratch] = _none
    host: bool = False

    def __call__(self, op: Op, emit: Emitter) -> None:
        scratch = self.scratch_first(op, emit)
        known = OPS[op.name].argument_names
        operands = [name for name in known if name not in (*self.dropped, *self.inputs)]
        arguments = {self.names.get(name, name): passed(op, name) for name in operands}
        arguments |= {name: emit.input(step_input) for name, step_input in self.inputs.items()}
        arguments |= {name: emit.result(index) for index, name in enumerate(self.outputs)}
        scratch |= self.scratch(op, emit)
        shaped = {name: self._shaped(name, value) for name, value in arguments.items()}
        emit.call(
            self.kernel,
            writes=(*self.outputs, *scratch),
            host=self.host,
            **shaped,
            **self.constants,
            **scratch,
        )

    def _shaped(self, name: str, value: Any) -> Any:
        if isinstance(value, Value) and name in self.rows:
            return as_rows(value)
        if isinstance(value, Value) and name in self.flat:
            return flat(value)
        return value


def dense(family: str) -> dict[str, Direct]:
    """The rows that are alike for kernels called ``family.linear`` and so on."""
    return {
        "linear": Direct(f"{family}.linear", rows=("x", "out")),
        "swiglu": Direct(f"{family}.swiglu", rows=("x", "out")),
        "silu_mul": Direct(f"{family}.silu_mul"),
    }


def paged(family: str, **decode: Any) -> dict[str, Direct]:
    """Attention over the paged cache by kernels that read lengths in host memory; ``decode`` are
    fields of the decode row alone."""
    return {
        "prefill_attention": Direct(
            f"{family}.prefill_attention",
            names=CACHED,
            inputs={"cu_seqlens_q": "cu_seqlens_q_host", "cu_seqlens_k": "cu_seqlens_k_host"},
            host=True,
        ),
        "decode_attention": Direct(
            f"{family}.decode_attention",
            names=CACHED,
            inputs={"context_lengths": "context_lengths_host"},
            host=True,
            **decode,
        ),
    }

"""The registry of semantic ops: schema, reference, fake kernel, numerics class and facts of each.

An op can only be registered whole; a rewrite that targets an op without a reference can't exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from glmc.ir.ops.facts import OpFacts, by_name
from glmc_runtime.errors import ExtensionError

_LIBRARY = torch.library.Library("glmc", "DEF")


class Numerics(Enum):
    """How far an op's reference may be from the eager code that it stands for."""

    BITWISE = "bitwise"
    REORDERED = "reordered"
    APPROXIMATE = "approximate"


@dataclass(frozen=True)
class SemanticOp:
    """One ``glmc::`` op. ``overload`` is the callable that stands in graphs."""

    name: str
    schema: str
    numerics: Numerics
    reference: Callable[..., Any]
    overload: torch._ops.OpOverload
    facts: OpFacts

    @property
    def argument_names(self) -> tuple[str, ...]:
        return tuple(argument.name for argument in self.overload._schema.arguments)

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """The tensors beside the tokens, of an op that treats each token alone."""
        if self.facts.tokens is None:
            return ()
        tensors = (each for each in self.overload._schema.arguments if "Tensor" in str(each.type))
        return tuple(each.name for each in tensors if each.name not in self.facts.tokens)

    def flops(self, *arguments: Any) -> int:
        """Multiplications and additions of the matrix products; only shapes are read."""
        return int(by_name(self.facts.flops, self._named(arguments)))

    def bytes_accessed(self, *arguments: Any) -> int:
        """Bytes read of operands and written of results, each once; only shapes are read, so
        that meta tensors will do."""
        meta = [item.to("meta") if isinstance(item, Tensor) else item for item in arguments]
        named, results = self._named(meta), self.overload(*meta)
        results = results if isinstance(results, tuple) else (results,)
        outs = {f"out.{index}" if index else "out": item for index, item in enumerate(results)}
        total = 0
        for name, item in {**named, **outs}.items():
            if isinstance(item, Tensor):
                part = self.facts.accessed.get(name)
                elements = item.numel() if part is None else by_name(part, named)
                total += item.dtype.itemsize * elements
        return total

    def _named(self, arguments: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(self.argument_names, arguments, strict=True))


OPS: dict[str, SemanticOp] = {}


def define(
    schema: str,
    numerics: Numerics,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    facts: OpFacts,
) -> SemanticOp:
    """Register ``glmc::<schema>`` with its reference (run on real tensors), its fake kernel and
    its facts.

    Raises ExtensionError for a name that is taken, a schema that mutates an operand, a reference
    or fake kernel that can't be called, and facts of what is no operand.
    """
    name = schema.split("(", maxsplit=1)[0]
    _require_whole(name, schema, numerics, facts, reference, fake)
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"glmc::{name}", fake, lib=_LIBRARY)
    overload = getattr(torch.ops.glmc, name).default
    op = SemanticOp(name, schema, numerics, reference, overload, facts)
    OPS[name] = op
    return op


def _require_whole(
    name: str, schema: str, numerics: object, facts: object, *kernels: object
) -> None:
    problem = ""
    if name in OPS:
        problem = f"another op has this name: {OPS[name].schema}"
    elif not isinstance(numerics, Numerics):
        problem = f"the numerics class is {numerics!r}"
    elif not all(map(callable, kernels)):
        problem = "the reference or the fake kernel is no function"
    elif not isinstance(facts, OpFacts):
        problem = f"the facts are {facts!r}"
    else:
        problem = _schema_problem(torch._C.parse_schema(f"glmc::{schema}"), facts)
    if problem:
        raise ExtensionError(
            f"the op '{name}' can't be registered",
            place=schema,
            expected="a free name, a functional schema, a Numerics, a reference, a fake kernel and "
            "facts of its operands",
            found=problem,
        )


def _schema_problem(schema: torch._C.FunctionSchema, facts: OpFacts) -> str:
    if schema.is_mutable:
        return "the schema mutates an operand"
    unknown = facts.operands() - {argument.name for argument in schema.arguments}
    if unknown:
        return f"facts of '{min(unknown)}', which is no operand"
    if any(len(each.results) != len(schema.returns) for each in facts.shardings):
        return f"a sharding that does not say how each of {len(schema.returns)} results is joined"
    return ""


def semantic_op(target: object) -> SemanticOp | None:
    """The op of a node's target, or None when it is no ``glmc::`` op."""
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "glmc":
        return OPS.get(target._schema.name.removeprefix("glmc::"))
    return None

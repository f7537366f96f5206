"""The registry of semantic ops: schema, reference, fake kernel and numerics class in one place.

An op can only be registered whole; a rewrite that targets an op without a reference can't exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from glmc_runtime.errors import ExtensionError

_LIBRARY = torch.library.Library("glmc", "DEF")


class Numerics(Enum):
    """How far an op's reference may be from the eager code that it stands for."""

    BITWISE = "bitwise"
    REORDERED = "reordered"
    APPROXIMATE = "approximate"


@dataclass(frozen=True)
class SemanticOp:
    """One ``glmc::`` op. ``overload`` is the callable that stands in graphs.

    ``token_operands`` are the positions of the operands that hold the tokens, for an op that treats
    each token alone; its other tensors are weights. None: the op may mix tokens.
    """

    name: str
    schema: str
    numerics: Numerics
    reference: Callable[..., Any]
    overload: torch._ops.OpOverload
    token_operands: tuple[int, ...] | None = None

    @property
    def argument_names(self) -> tuple[str, ...]:
        return tuple(argument.name for argument in self.overload._schema.arguments)


OPS: dict[str, SemanticOp] = {}


def define(
    schema: str,
    numerics: Numerics,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    token_operands: tuple[int, ...] | None = None,
) -> SemanticOp:
    """Register ``glmc::<schema>`` with its reference (run on real tensors) and its fake kernel.

    Raises ExtensionError for a name that is taken, a schema that mutates an operand, and a
    reference or fake kernel that can't be called.
    """
    name = schema.split("(", maxsplit=1)[0]
    _require_whole(name, schema, numerics, reference, fake)
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"glmc::{name}", fake, lib=_LIBRARY)
    overload = getattr(torch.ops.glmc, name).default
    op = SemanticOp(name, schema, numerics, reference, overload, token_operands)
    OPS[name] = op
    return op


def _require_whole(name: str, schema: str, numerics: object, *kernels: object) -> None:
    problem = ""
    if name in OPS:
        problem = f"another op has this name: {OPS[name].schema}"
    elif not isinstance(numerics, Numerics):
        problem = f"the numerics class is {numerics!r}"
    elif not all(map(callable, kernels)):
        problem = "the reference or the fake kernel is no function"
    elif torch._C.parse_schema(f"glmc::{schema}").is_mutable:
        problem = "the schema mutates an operand"
    if problem:
        raise ExtensionError(
            f"the op '{name}' can't be registered",
            place=schema,
            expected="a free name, a functional schema, a Numerics, a reference and a fake kernel",
            found=problem,
        )


def semantic_op(target: object) -> SemanticOp | None:
    """The op of a node's target, or None when it is no ``glmc::`` op."""
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "glmc":
        return OPS.get(target._schema.name.removeprefix("glmc::"))
    return None

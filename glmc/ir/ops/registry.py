"""The registry of semantic ops: schema, reference, fake kernel and numerics class in one place.

An op can only be registered whole; a rewrite that targets an op without a reference can't exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

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

    @property
    def argument_names(self) -> tuple[str, ...]:
        return tuple(argument.name for argument in self.overload._schema.arguments)


OPS: dict[str, SemanticOp] = {}


def define(
    schema: str,
    numerics: Numerics,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
) -> SemanticOp:
    """Register ``glmc::<schema>`` with its reference (run on real tensors) and its fake kernel."""
    name = schema.split("(", maxsplit=1)[0]
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"glmc::{name}", fake, lib=_LIBRARY)
    overload = getattr(torch.ops.glmc, name).default
    op = SemanticOp(name, schema, numerics, reference, overload)
    OPS[name] = op
    return op


def semantic_op(target: object) -> SemanticOp | None:
    """The op behind a node's target, or None when it is no ``glmc::`` op."""
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "glmc":
        return OPS.get(target._schema.name.removeprefix("glmc::"))
    return None

"""Facts of the ATen ops that stay in a program beside the semantic ones.

Before the passes they are the spellings of eager code, after them what a lost fusion left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class AtenFacts:
    """``summed`` is the position of an operand and its axis, whose size is added up. ``scores``:
    as of an attention (:class:`~glmc.ir.ops.facts.OpFacts`). ``softmax``: it is one.

    ``tokens`` says in which form an op treats each token alone: ``elementwise``, with operands
    whose tokens are at the same places, or over the last dimension, the ``columns`` of a token.
    ``arguments`` are the names by which a rule of a target reads positional arguments (one more
    is refused), ``implied`` the keywords that the node's own value already tells.
    """

    summed: tuple[int, int] | None = None
    scores: bool = False
    softmax: bool = False
    tokens: Literal["elementwise", "columns"] | None = None
    arguments: tuple[str, ...] = ("x", "y", "z")
    implied: tuple[str, ...] = ()


_UNKNOWN = AtenFacts()
ATEN: Mapping[str, AtenFacts] = MappingProxyType(
    {
        # A third argument by place is a scale of the second, which no kernel has.
        "aten.add": AtenFacts(tokens="elementwise", arguments=("x", "y")),
        "aten.mul": AtenFacts(tokens="elementwise", arguments=("x", "y")),
        "aten.silu": AtenFacts(tokens="elementwise", arguments=("x",)),
        "aten.rsqrt": AtenFacts(tokens="elementwise", arguments=("x",)),
        "aten.pow": AtenFacts(tokens="elementwise", arguments=("x", "exponent")),
        "aten._to_copy": AtenFacts(tokens="elementwise", arguments=("x",), implied=("dtype",)),
        "aten.mean": AtenFacts((0, -1), tokens="columns", arguments=("x", "axes", "keep")),
        "aten.slice": AtenFacts(tokens="columns", arguments=("x", "axis", "start", "stop")),
        "aten.sum": AtenFacts((0, -1)),
        "aten._softmax": AtenFacts((0, -1), softmax=True),
        "aten.softmax": AtenFacts((0, -1), softmax=True),
        "aten._safe_softmax": AtenFacts((0, -1), softmax=True),
        "aten.linear": AtenFacts((1, -1)),
        "aten.mm": AtenFacts((1, -2)),
        "aten.bmm": AtenFacts((1, -2)),
        "aten.matmul": AtenFacts((1, -2)),
        "aten._grouped_mm": AtenFacts((1, -2)),
        "aten.addmm": AtenFacts((2, -2)),
        "aten.baddbmm": AtenFacts((2, -2)),
        **{
            f"aten.{name}_attention": AtenFacts((0, -1), scores=True)
            for name in (
                "scaled_dot_product",
                "_scaled_dot_product_flash",
                "_scaled_dot_product_efficient",
                "_scaled_dot_product_cudnn",
            )
        },
    }
)
VIEWS = frozenset(
    f"aten.{name}"
    for name in (
        "view _unsafe_view reshape permute transpose t expand unsqueeze squeeze slice select split "
        "split_with_sizes chunk alias detach sym_size"
    ).split()
)
"""Calls that only describe memory; eager PyTorch launches no kernel for them."""


def aten_facts(name: str) -> AtenFacts:
    """Of an op by its name in a graph, such as ``aten.add``; of any other, those that claim
    nothing."""
    return ATEN.get(name, _UNKNOWN)

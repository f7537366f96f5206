"""What a pass is: a name, a numerics class, an anchor, a matcher and a rewrite.

The driver walks the anchors once, in graph order, and collects matches and near misses; sorting,
dead code and checks come after. Matchers only read; rewrites go through the Rewriter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from torch.fx import Node

from glmc.ir.match import HELD, NearMiss, NoMatchError, is_op
from glmc.ir.ops import Numerics
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter

Binding = TypeVar("Binding")


@dataclass(frozen=True)
class Match:
    """One rewrite that happened, named by the id of its anchor."""

    node: str
    module: str
    layer: int | None


@dataclass
class PassResult:
    """What a pass did. ``detail`` holds facts for the report that are no matches."""

    matches: list[Match] = field(default_factory=list)
    near_misses: list[NearMiss] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)


class Pass(Protocol):
    """Anything with a name and a numerics class that rewrites a program in place."""

    @property
    def name(self) -> str: ...

    @property
    def numerics(self) -> Numerics: ...

    def run(self, program: Program) -> PassResult: ...


@dataclass(frozen=True)
class AnchorPass(Generic[Binding]):
    """A pass that starts at nodes of the ops ``anchors``.

    ``match`` returns what it found or raises NoMatchError (through require, refuse, unrelated);
    ``rewrite`` edits the graph, and may still miss: the op must take its operands, and what
    replaces a value must be of its kind. Nodes that an earlier match has taken out of use are
    skipped. ``budget`` is how far the values of an approximate pass may be off, relative to their
    root mean square and beyond what reordering explains; no other class has one.
    """

    name: str
    numerics: Numerics
    anchors: tuple[str, ...]
    match: Callable[[Node, Program], Binding]
    rewrite: Callable[[Rewriter, Binding], None]
    budget: float = 0.0

    def run(self, program: Program) -> PassResult:
        result = PassResult()
        rewriter = Rewriter(program, self.name)
        for anchor in [node for node in program.graph.nodes if is_op(node, *self.anchors)]:
            if not anchor.users:
                continue
            HELD.set(0)
            try:
                self.rewrite(rewriter, self.match(anchor, program))
            except NoMatchError as miss:
                if miss.near:
                    result.near_misses.append(near_miss(self.name, anchor, miss))
                continue
            result.matches.append(match_at(anchor))
        rewriter.finish()
        return result


def match_at(node: Node) -> Match:
    return Match(node.meta["id"], node.meta["module"], node.meta["layer"])


def near_miss(pass_name: str, anchor: Node, miss: NoMatchError) -> NearMiss:
    meta = miss.node.meta
    return NearMiss(
        pass_name,
        anchor=anchor.meta["id"],
        node=meta.get("id", miss.node.name),
        module=meta.get("module") or anchor.meta["module"],
        layer=anchor.meta["layer"],
        condition=miss.condition,
        source=meta.get("source") or "",
        held=HELD.get(),
    )

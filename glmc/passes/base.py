"""A pass: a name, a numerics class, an anchor, a matcher and a rewrite.

The driver walks the anchors once, in graph order, and collects matches and near misses; sorting,
dead code and checks come after. Matchers only read; rewrites go through the Rewriter. A rewrite
stands when every argument of what it replaces was read (see glmc/ir/accounting.py) and when both
sides compute the same of the same values (glmc/ir/evaluation.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from torch.fx import Node

from glmc.errors import LoweringError
from glmc.ir.accounting import Log, accounting, unread
from glmc.ir.evaluation import Outcome, Rewritten, evaluate
from glmc.ir.match import HELD, NearMiss, NoMatchError, is_op, refuse
from glmc.ir.ops import Numerics
from glmc.ir.program import Program
from glmc.ir.rewrite import Attempt, Rewriter
from glmc.ir.threads import one_thread
from glmc.patterns.per_token import place

Binding = TypeVar("Binding")


@dataclass(frozen=True)
class Match:
    """One rewrite that happened, named by the id of its anchor."""

    node: str
    module: str
    layer: int | None


@dataclass
class PassResult:
    """What a pass did. ``detail`` holds facts for the report that are no matches; ``evaluations``
    are the instances that ran, one for each kind of region."""

    matches: list[Match] = field(default_factory=list)
    near_misses: list[NearMiss] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)
    evaluations: list[str] = field(default_factory=list)
    evaluation_seconds: float = 0.0


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
            attempt(self, rewriter, anchor, result, lambda at: self._rewritten(rewriter, at))
        rewriter.require_unedited()
        rewriter.finish()
        return result

    def _rewritten(self, rewriter: Rewriter, anchor: Node) -> bool:
        matched = self.match(anchor, rewriter.program)
        if rewriter.attempt is not None:
            rewriter.attempt.editing = True
        self.rewrite(rewriter, matched)
        return True


def attempt(
    rewrite: Pass,
    rewriter: Rewriter,
    anchor: Node,
    result: PassResult,
    rewritten: Callable[[Node], bool],
) -> None:
    """One rewrite, all or nothing: ``rewritten(anchor)`` matches, inserts and replaces, or raises
    NoMatchError, or gives False when there is nothing to do."""
    HELD.set(0)
    tried = rewriter.begin()
    with accounting() as log:
        try:
            if rewritten(anchor):
                _require_accounted(tried, log)
                _require_same(rewrite, rewriter.program, tried, result)
                rewriter.commit()
                result.matches.append(match_at(anchor))
        except NoMatchError as miss:
            if miss.near:
                result.near_misses.append(near_miss(rewriter.pass_name, anchor, miss))
        finally:
            rewriter.abandon()


def _require_accounted(tried: Attempt, log: Log) -> None:
    require_accounted(tried.replaced, tried.starts, log)


def require_accounted(roots: Collection[Node], starts: Collection[Node], log: Log) -> None:
    """Every argument of what is between ``starts`` and ``roots`` must have been read."""
    missing = unread(roots, starts, log)
    if missing is not None:
        refuse(*missing)


def read_whole(
    message: str,
    root: Node,
    read: Callable[[], Binding],
    starts: Callable[[Binding], Collection[Node]],
) -> Binding:
    """What ``read`` finds at ``root``, for a pass that rebuilds the graph and has nothing to fall
    back on: a condition that fails and an argument that nobody read are errors."""
    with accounting() as log:
        try:
            result = read()
            require_accounted([root], starts(result), log)
        except NoMatchError as miss:
            raise LoweringError(
                message,
                place=place(miss.node),
                expected=miss.condition,
                remedy="see which pass missed this layer: glmc compile --report",
            ) from miss
    return result


def _require_same(rewrite: Pass, program: Program, tried: Attempt, result: PassResult) -> None:
    """Evaluate both sides, once for each kind of region in a program."""
    start = time.perf_counter()
    rewritten = Rewritten.of(tried)
    key = ("evaluated", rewrite.name, rewritten.kind(program))
    if key not in program.memo:
        budget = getattr(rewrite, "budget", 0.0)
        with one_thread():
            evaluated = evaluate(rewritten, program, rewrite.numerics, budget)
        program.memo[key] = evaluated
        result.evaluations.append(evaluated.instance)
    outcome = program.memo[key]
    result.evaluation_seconds += time.perf_counter() - start
    if isinstance(outcome, Outcome) and outcome.difference:
        refuse(rewritten.pairs[0][0], outcome.difference)


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

"""Running a program on real tensors beside the regions that a pass has put into it."""

from __future__ import annotations

from collections import ChainMap, Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from glmc.check.verify.regions import Region
from glmc.errors import InternalError
from glmc.ir.match import is_op
from glmc.ir.ops import semantic_op
from glmc.ir.ops.collectives import is_collective, over_ranks
from glmc.ir.program import Program
from glmc.ir.tolerance import condition_of
from glmc_runtime.command.out_of_memory import shortage_behind

Values = Mapping[Node, Any]
_REFUSED = (RuntimeError, LookupError, TypeError, ValueError, NotImplementedError)


@dataclass(frozen=True)
class RegionResult:
    """The values of a region's ends before and after; ``condition`` as in tolerance.py.

    Where a node of the region can't be computed, its error stands for every value after.
    """

    region: Region
    pairs: list[tuple[Any, Any]]
    condition: float


class NodeError(Exception):
    """A call that refused its operands: ``str`` is what it said."""

    def __init__(self, node: Node, error: Exception, rank: int = 0) -> None:
        first = str(error).strip().partition("\n")[0]
        super().__init__(f"{type(error).__name__}: {first}")
        self.node = node
        self.rank = rank


class BoundInputs(Mapping[Node, Any]):
    """The placeholders of a program: step inputs by name, and weights that are only made when they
    are read."""

    def __init__(
        self, program: Program, inputs: Mapping[str, Tensor], weights: Mapping[str, Tensor]
    ) -> None:
        self._nodes = list(program.placeholders())
        self._inputs = inputs
        self._weights = weights

    def __getitem__(self, node: Node) -> Tensor:
        if "weight" in node.meta:
            return self._weights[node.meta["weight"]]
        if "input" in node.meta:
            return self._inputs[node.meta["input"]]
        raise KeyError(node)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)


def call_on_ranks(node: Node, values: Sequence[Values]) -> list[Any]:
    """One call on all ranks, by the values of each; what they tell each other by the values of
    all. Raises NodeError."""
    op = semantic_op(node.target)
    if op is None or not is_collective(op.name):
        return [call(node, each, rank) for rank, each in enumerate(values)]
    arguments: list[Any] = [
        [each[operand] for each in values] if isinstance(operand, Node) else operand
        for operand in node.args
    ]
    try:
        return over_ranks(op.name, arguments[0], arguments[1:])
    except _REFUSED as error:
        raise NodeError(node, error) from error


def call(node: Node, values: Values, rank: int = 0) -> Any:
    """One call on the values of its operands; raises NodeError, which names the rank."""
    if node.op != "call_function":
        raise InternalError(f"{node.name} is a {node.op} and no call", place=node.name)
    mapped: Any = torch.fx.node.map_arg(
        (node.args, dict(node.kwargs)), lambda operand: values[operand]
    )
    arguments, keywords = mapped
    target: Callable[..., Any] = node.target  # type: ignore[assignment]
    try:
        if is_op(node, "aten.histc") and not arguments[0].is_floating_point():
            # Counts of whole numbers, as a device has them; the CPU's kernel takes no such.
            return target(arguments[0].double(), *arguments[1:], **keywords).to(arguments[0].dtype)
        return target(*arguments, **keywords)
    except _REFUSED as error:
        if shortage_behind(error) is not None:
            raise  # says nothing of the node
        raise NodeError(node, error, rank) from error


def each_region(
    program: Program, regions: Sequence[Region], before: Values, after: Values
) -> Iterator[RegionResult]:
    """Run ``program``; each region as soon as what it needs is there, with the values of its ends
    before and after. What nobody needs any more is freed.

    ``before`` and ``after`` hold the placeholders of the programs before and after the pass.
    """
    place = {node: number for number, node in enumerate(program.graph.nodes)}
    due: dict[Node, list[Region]] = defaultdict(list)
    left = Counter(operand for node in program.graph.nodes for operand in node.all_input_nodes)
    for region in regions:
        needed = _borders(region)
        left.update(needed)
        due[max(needed, key=place.__getitem__)].append(region)
    own: dict[Node, Any] = {}
    values: MutableMapping[Node, Any] = ChainMap(own, before)  # type: ignore[arg-type]

    def use(nodes: Sequence[Node]) -> None:
        for node in nodes:
            left[node] -= 1
            if not left[node]:
                own.pop(node, None)

    waiting = len(regions)
    with torch.no_grad():
        for node in program.graph.nodes:
            if not waiting:
                break
            if node.op == "call_function":
                own[node] = call(node, values)
                use(node.all_input_nodes)
            for region in due[node]:
                yield _run(region, values, after)
                use(_borders(region))
                waiting -= 1


def _borders(region: Region) -> list[Node]:
    """What a region begins with or is compared with, each once."""
    return list(dict.fromkeys(pair.before for pair in (*region.starts, *region.ends)))


def _run(region: Region, before: Values, after: Values) -> RegionResult:
    own: dict[Node, Any] = {pair.after: before[pair.before] for pair in region.starts}
    values: MutableMapping[Node, Any] = ChainMap(own, after)  # type: ignore[arg-type]
    condition = 1.0
    try:
        for node in region.added:
            own[node] = call(node, values)
            condition = max(condition, condition_of(node, values))
    except NodeError as error:
        return RegionResult(
            region, [(before[pair.before], error) for pair in region.ends], condition
        )
    pairs = [(before[pair.before], values[pair.after]) for pair in region.ends]
    return RegionResult(region, pairs, condition)


def values_of(program: Program, bound: Mapping[Node, Any], wanted: set[Node]) -> dict[Node, Any]:
    """The values of some nodes of a program of one rank; others are freed after their use."""
    return values_on_ranks(program, [bound], wanted)[0]


def values_on_ranks(
    program: Program, bound: Sequence[Mapping[Node, Any]], wanted: set[Node]
) -> list[dict[Node, Any]]:
    """The values of some nodes on each rank; ``bound`` has the placeholders of each."""
    own: list[dict[Node, Any]] = [{} for _ in bound]
    values = [ChainMap(mine, given) for mine, given in zip(own, bound, strict=True)]  # type: ignore[arg-type]
    left = {node: len(node.users) for node in program.graph.nodes}
    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op != "call_function":
                continue
            for mine, value in zip(own, call_on_ranks(node, values), strict=True):
                mine[node] = value
            for operand in node.all_input_nodes:
                left[operand] -= 1
                if not left[operand] and operand not in wanted:
                    for mine in own:
                        mine.pop(operand, None)
    return [{node: each[node] for node in wanted} for each in values]

"""A program: one functional FX graph with its weights, and what is known of the model.

Placeholders are of two kinds, told apart by ``meta["input"]`` (a step input or a cache, which has
its :class:`Cache` in ``meta["cache"]``) and ``meta["weight"]`` (a key of ``Program.weights``).
Node ids are in ``meta["id"]``, the module path in ``meta["module"]``, the layer number in
``meta["layer"]``, and which value of the captured model a node is in ``meta["identity"]`` (see
ir/identity.py).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx._lazy_graph_module import _LazyGraphModule

from glmc.errors import InternalError
from glmc.ir.assumptions import Assumptions, assumptions_of
from glmc.ir.recipe import Weight
from glmc.ir.symbols import Symbols
from glmc_runtime.format.cache import CacheKey


def graph_module(graph: Graph) -> GraphModule:
    """A module around ``graph`` whose Python code is only made when it is first run."""
    return _LazyGraphModule(torch.nn.Module(), graph)


@dataclass(frozen=True)
class ModelShape:
    """Facts of a model that later stages need; all read from its config."""

    name: str
    architecture: str
    layers: int
    vocabulary: int
    hidden: int
    query_heads: int
    kv_heads: int
    head_dim: int
    maximum_positions: int
    eos_token_ids: tuple[int, ...]
    parameters: int
    tied_embeddings: bool


@dataclass(frozen=True)
class Cache:
    """A tensor of the paged cache in a program: [blocks, first, block_size, *rest] where a token
    has ``shape`` (first, *rest), and [blocks, block_size, size] where it has (size,)."""

    key: CacheKey
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of its placeholder."""
        return f"{self.key.name}_cache.{self.key.layer}"

    def block_shape(self, block_size: int) -> tuple[int, ...]:
        """One block, as programs have it whatever the layout of the target is."""
        at = self.block_dimension
        return (*self.shape[:at], block_size, *self.shape[at:])

    @property
    def block_dimension(self) -> int:
        """Which dimension of a block counts its tokens."""
        return min(1, len(self.shape) - 1)


@dataclass
class Program:
    """``phase``: ``stateless`` as captured, ``paged`` after kv_cache, ``prefill`` or ``decode``;
    ``traced`` for what Dynamo hands over, which has its own inputs, cache, mask and sizes.

    ``replaced`` says which node reads as which of those before the last pass, for its proof.
    ``symbols`` names the step sizes once the graph is a phase's own (see ir/rebuild.py).
    ``ranks``: of how many the graph is one rank's; all have the same graph (see ir/ranks.py).
    """

    graph_module: GraphModule
    weights: dict[str, Weight]
    model: ModelShape
    dtype: torch.dtype
    phase: str = "stateless"
    replaced: dict[str, str] = field(default_factory=dict)
    symbols: Symbols | None = None
    ranks: int = 1
    memo: dict[Hashable, object] = field(default_factory=dict, repr=False, compare=False)

    @property
    def assumes(self) -> Assumptions:
        """What may be assumed of it, by its phase."""
        return assumptions_of(self.phase)

    @property
    def graph(self) -> torch.fx.Graph:
        return self.graph_module.graph

    def inputs(self) -> Iterator[Node]:
        """Placeholders of step inputs and caches, in order."""
        return (node for node in self.placeholders() if "input" in node.meta)

    def caches(self) -> Iterator[Node]:
        """Placeholders of the paged cache, in order."""
        return (node for node in self.inputs() if "cache" in node.meta)

    def placeholders(self) -> Iterator[Node]:
        """All placeholders; they stand at the head of the graph, which is not walked beyond."""
        return takewhile(lambda node: node.op == "placeholder", self.graph.nodes)

    def weight_of(self, node: object) -> Weight | None:
        """The weight of a placeholder, or None."""
        if isinstance(node, Node) and node.op == "placeholder" and "weight" in node.meta:
            return self.weights[node.meta["weight"]]
        return None

    def run(
        self, inputs: Mapping[str, Tensor], weights: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """Run the graph on real tensors, by input name and weight name."""
        arguments = []
        for node in self.placeholders():
            if "weight" in node.meta:
                arguments.append(weights[node.meta["weight"]])
            elif "input" in node.meta:
                arguments.append(inputs[node.meta["input"]])
            else:
                raise InternalError(f"placeholder {node.name} is neither an input nor a weight")
        with torch.no_grad():
            result = self.graph_module(*arguments)
        return tuple(result) if isinstance(result, (tuple, list)) else (result,)

    def copy(self) -> Program:
        """An independent program: its own nodes and weight table, the same fake values."""
        graph = Graph()
        copies: dict[Node, Node] = {}
        for node in self.graph.nodes:
            copies[node] = graph.node_copy(node, lambda old: copies[old])
            copies[node].meta = dict(node.meta)
        return replace(
            self,
            graph_module=graph_module(graph),
            weights=dict(self.weights),
            replaced=dict(self.replaced),
            memo={},
        )

"""Tracing one layer of each kind, and instantiating the traced layers.

Layers are of one kind when their modules, parameters and settings agree. Only the first of each
kind stays in the module that is traced; afterwards its nodes are copied once per layer with the
layer's own weights. Cost then grows with the kinds and no longer with the layers.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node

from glmc.errors import CaptureError

Copies = Mapping[Node, Node]
Copied = Callable[[int, Copies], object]

# Told by their repr; a callable's names it, and two closures of one function apart.
_BY_REPR = (
    *(bool, int, float, complex, str, bytes, type),
    *(tuple, list, dict, set, frozenset, range),
    *(torch.dtype, torch.device, torch.Size),
    *(BuiltinFunctionType, FunctionType, functools.partial),
)
# Of every module: parameters, buffers and submodules (told apart below), hooks and the like.
_OF_EVERY_MODULE = frozenset((*vars(nn.Module()), "layer_idx"))


def kind_of(layer: nn.Module) -> Hashable:
    """Everything that may make two layers compute differently, the layer's number left out.

    Two layers with equal settings may come out different, such as by sets that were filled in
    another order: that costs time. Attributes of other classes count by their class alone; the
    config, which all layers share, is such a one.
    """
    parts: list[Hashable] = []
    for path, module in layer.named_modules():
        settings = tuple(
            sorted(
                (name, _setting(value))
                for name, value in vars(module).items()
                if name not in _OF_EVERY_MODULE and value is not None
            )
        )
        parts.append((path, _name(type(module)), settings))
    for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
        parts.append((name, tuple(tensor.shape), str(tensor.dtype)))
    return tuple(parts)


def _setting(value: object) -> str:
    if isinstance(value, MethodType):
        return f"method {_name(value.__func__)} of {_name(type(value.__self__))}"
    return repr(value) if isinstance(value, _BY_REPR) else _name(type(value))


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


@dataclass(frozen=True)
class Folding:
    """``kinds[i]`` is the index in the traced list of the layer that stands for layer i."""

    kinds: tuple[int, ...]

    @property
    def representatives(self) -> tuple[int, ...]:
        """For each traced layer, the number of the layer it was taken from."""
        return tuple(self.kinds.index(kind) for kind in range(max(self.kinds) + 1))


def fold(model: Any, layers: nn.ModuleList) -> Folding:
    """Keep one layer of each kind in ``layers``, in place."""
    seen: dict[Hashable, int] = {}
    kinds = tuple(seen.setdefault(kind_of(layer), len(seen)) for layer in layers)
    folding = Folding(kinds)
    traced = [layers[index] for index in folding.representatives]
    del layers[:]
    for index, layer in enumerate(traced):
        layers.append(layer)
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                vars(module)["layer_idx"] = index
    model.config.num_hidden_layers = len(traced)
    return folding


def unfold(graph: Graph, folding: Folding, copied: Copied = lambda layer, copies: None) -> Copies:
    """Instantiate every layer of the full model from the traced ones, in place.

    Needs ``meta["layer"]`` on the nodes. Each traced layer must take one value from the layer
    before it (the residual stream) and hand one on. ``copied`` is told of each layer, in order,
    which nodes are its copies of those of the traced one; returned is what nodes outside of the
    layers read in place of traced nodes.
    """
    traced = max(folding.kinds) + 1
    if folding.kinds == tuple(range(traced)):
        for layer in range(traced):
            copied(layer, {})
        return {}
    bodies = [_body(graph, layer) for layer in range(traced)]
    exits = [_exit(body, layer) for layer, body in enumerate(bodies)]
    entries = [
        _entry(body, exits[layer - 1] if layer else None) for layer, body in enumerate(bodies)
    ]
    reads_last = [user for user in exits[-1].users if user.meta["layer"] is None]
    weights = {node.meta["weight"]: node for node in graph.nodes if "weight" in node.meta}
    stream = entries[0]
    border = next(node for node in reversed(graph.nodes) if node.meta.get("layer") == traced - 1)
    place = border.next
    for layer, kind in enumerate(folding.kinds):
        copies = {entries[kind]: stream}
        for node in bodies[kind]:
            for operand in node.all_input_nodes:
                if operand not in copies and "weight" in operand.meta:
                    copies[operand] = _weight_of_layer(graph, operand, layer, weights)
            with graph.inserting_before(place):
                copy = graph.node_copy(node, lambda old, new=copies: new.get(old, old))  # type: ignore[misc]
            _renumber(copy, kind, layer)
            copies[node] = copy
        copied(layer, copies)
        stream = copies[exits[kind]]
    for user in reads_last:
        user.replace_input_with(exits[-1], stream)
    for body in reversed(bodies):
        for node in reversed(body):
            graph.erase_node(node)
    for node in list(graph.nodes):
        if "weight" in node.meta and not node.users:
            graph.erase_node(node)
    return {exits[-1]: stream}


def _body(graph: Graph, layer: int) -> list[Node]:
    return [
        node for node in graph.nodes if node.meta.get("layer") == layer and node.op != "placeholder"
    ]


def _exit(body: list[Node], layer: int) -> Node:
    inside = set(body)
    exits = [node for node in body if any(user not in inside for user in node.users)]
    if len(exits) != 1:
        raise CaptureError(
            f"layer {layer} hands {len(exits)} values on",
            expected="one: the residual stream",
            found=", ".join(node.name for node in exits),
            remedy="compile with --full-capture",
        )
    return exits[0]


def _entry(body: list[Node], before: Node | None) -> Node:
    """The value that the layer takes from the one before: for layer 0, the embedding."""
    if before is not None:
        return before
    inside = set(body)
    outside = [
        operand
        for node in body
        for operand in node.all_input_nodes
        if operand not in inside and operand.op != "placeholder"
    ]
    streams = [
        node
        for node in dict.fromkeys(outside)
        if isinstance(node.meta["val"], torch.Tensor) and "embedding" in str(node.target)
    ]
    if len(streams) != 1:
        raise CaptureError(
            "the first layer does not start at one embedding",
            found=", ".join(node.name for node in dict.fromkeys(outside)),
            remedy="compile with --full-capture",
        )
    return streams[0]


def _renamed(name: str, old: int, new: int) -> str:
    return name.replace(f"layers.{old}.", f"layers.{new}.", 1)


def _renumber(node: Node, old: int, new: int) -> None:
    node.meta = dict(node.meta)
    node.meta["layer"] = new
    for key in ("id", "module"):
        # An id may name the layer itself, as in ``model.layers.3#add``.
        node.meta[key] = re.sub(rf"layers\.{old}(?!\d)", f"layers.{new}", node.meta[key], count=1)


def _weight_of_layer(graph: Graph, old: Node, layer: int, weights: dict[str, Node]) -> Node:
    """The placeholder of the same weight in ``layer``; the node itself for a shared weight."""
    if old.meta["layer"] is None:
        return old
    name = _renamed(old.meta["weight"], old.meta["layer"], layer)
    # The traced layers' own placeholders may carry the number of another layer: keep them apart.
    key = f"unfolded:{name}"
    if key not in weights:
        with graph.inserting_before(old):
            node = graph.placeholder(f"unfolded_{name.replace('.', '_')}")
        node.meta = dict(old.meta)
        node.meta["unfolded"] = True
        node.meta["weight"] = name
        _renumber(node, old.meta["layer"], layer)
        weights[key] = node
    return weights[key]


def instances(names: list[str], folding: Folding) -> Iterator[tuple[str, str]]:
    """(traced name, full name) of every parameter of every layer and outside the layers."""
    for name in names:
        layered = False
        for kind in range(max(folding.kinds) + 1):
            if f"layers.{kind}." in name:
                layered = True
                for layer, of_kind in enumerate(folding.kinds):
                    if of_kind == kind:
                        yield name, _renamed(name, kind, layer)
        if not layered:
            yield name, name

"""Layers of one kind: what tells them apart, folding a list, instantiating a traced graph."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import Graph, Node
from torch.nn.functional import gelu, silu

from glmc.capture.layers import Folding, fold, instances, kind_of, unfold
from glmc.errors import CaptureError

WIDTH = 4
aten = torch.ops.aten


class Layer(nn.Module):
    def __init__(self, number: int, **settings: Any) -> None:
        super().__init__()
        self.layer_idx = number
        self.linear = nn.Linear(WIDTH, settings.pop("width", WIDTH), bias=False)
        vars(self).update(settings)


def layers(*settings: dict[str, Any]) -> nn.ModuleList:
    return nn.ModuleList(Layer(number, **each) for number, each in enumerate(settings))


def scaled(x: float, by: float) -> float:
    return x * by


def closure(by: float) -> Callable[[float], float]:
    return lambda x: x * by


DIFFERENT: dict[str, tuple[Any, Any]] = {
    "number": (1.0, 2.0),
    "absent": (None, 2.0),
    "text": ("full", "sliding"),
    "tuple": ((1, 2), (1, 3)),
    "list": ([1], [1, 2]),
    "dict": ({"theta": 1e4}, {"theta": 1e6}),
    "set": ({1}, {2}),
    "dtype": (torch.float32, torch.bfloat16),
    "function": (silu, gelu),
    "builtin": (torch.tanh, torch.sigmoid),
    "closure": (closure(1), closure(2)),
    "partial": (functools.partial(scaled, by=1), functools.partial(scaled, by=2)),
    "class": (nn.SiLU, nn.GELU),
    "object": (SimpleNamespace(), Folding((0,))),
    "submodule": (nn.SiLU(), nn.GELU()),
    "width": (WIDTH, WIDTH + 1),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_layers_that_differ_are_not_folded(name: str) -> None:
    one, other = DIFFERENT[name]
    key = name if name == "width" else "setting"
    found = layers({key: one}, {key: other}, {key: one})
    if name == "submodule":
        for layer, value in zip(found, (one, other, one), strict=True):
            vars(layer).pop("setting")
            layer.add_module("setting", value)
    assert fold(SimpleNamespace(config=SimpleNamespace()), found).kinds == (0, 1, 0)


def test_a_patched_forward_makes_another_kind() -> None:
    one, other = layers({}, {})
    other.forward = other.extra_repr  # type: ignore[assignment, method-assign]
    assert kind_of(one) != kind_of(other)


def test_number_mode_and_values_of_the_weights_do_not_tell_layers_apart() -> None:
    one, other = layers({"window": (1, 2)}, {"window": (1, 2)})
    other.eval()
    assert kind_of(one) == kind_of(other)


def test_dtype_of_a_parameter_and_an_added_buffer_do() -> None:
    one, other, third = layers({}, {}, {})
    other.to(torch.bfloat16)
    third.register_buffer("table", torch.zeros(3))
    assert len({kind_of(each) for each in (one, other, third)}) == 3


def test_fold_keeps_the_first_of_each_kind_and_numbers_them() -> None:
    model = SimpleNamespace(config=SimpleNamespace(num_hidden_layers=5))
    found = layers({"kind": "a"}, {"kind": "a"}, {"kind": "b"}, {"kind": "a"}, {"kind": "b"})
    first, third = found[0], found[2]
    folding = fold(model, found)
    assert (folding.kinds, folding.representatives) == ((0, 0, 1, 0, 1), (0, 2))
    assert list(found) == [first, third]
    assert [layer.layer_idx for layer in found] == [0, 1]
    assert model.config.num_hidden_layers == 2


def test_instances_name_every_weight_of_every_layer() -> None:
    names = ["embedding.weight", "layers.0.a", "layers.1.b"]
    assert list(instances(names, Folding((0, 1, 0)))) == [
        ("embedding.weight", "embedding.weight"),
        ("layers.0.a", "layers.0.a"),
        ("layers.0.a", "layers.2.a"),
        ("layers.1.b", "layers.1.b"),
    ]


class Hand:
    """A graph as capture leaves it: ids, modules, layers and weights on its nodes."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.node = self._described(self.graph.placeholder("token_ids"), "", None)

    def weight(self, name: str, layer: int | None = None) -> Node:
        node = self.graph.placeholder(name.replace(".", "_"))
        node.meta["weight"] = name
        return self._described(node, name.rpartition(".")[0], layer, name)

    def call(self, target: Any, *arguments: Node, layer: int | None = None) -> Node:
        node = self.graph.call_function(target, arguments)
        module = "" if layer is None else f"layers.{layer}"
        return self._described(node, module, layer, f"{module}#{node.name}")

    @staticmethod
    def _described(node: Node, module: str, layer: int | None, name: str = "") -> Node:
        node.meta.update(id=name or node.name, module=module, layer=layer)
        node.meta["val"] = torch.zeros(WIDTH)
        return node


def two_kinds(exits: int = 1) -> Graph:
    """embedding -> layer 0: (x + own) * shared -> layer 1: x * own - shared -> head."""
    hand = Hand()
    table, shared = hand.weight("embedding.weight"), hand.weight("shared")
    own = [hand.weight(f"layers.{layer}.own", layer) for layer in (0, 1)]
    stream = hand.call(aten.embedding.default, table, hand.node)
    summed = hand.call(aten.add.Tensor, stream, own[0], layer=0)
    stream = hand.call(aten.mul.Tensor, summed, shared, layer=0)
    stream = hand.call(aten.mul.Tensor, stream, own[1], layer=1)
    stream = hand.call(aten.sub.Tensor, stream, summed if exits == 2 else shared, layer=1)
    head = hand.call(aten.neg.default, stream)
    hand.graph.output((head,)).meta.update(id="output", module="", layer=None)
    return hand.graph


def test_unfold_gives_each_layer_its_own_weights_and_all_the_shared_one() -> None:
    graph, kinds = two_kinds(), (0, 1, 0, 0, 1)
    unfold(graph, Folding(kinds))
    graph.lint()
    values = {"embedding.weight": torch.randn(7, WIDTH), "shared": torch.tensor(0.5)}
    values |= {f"layers.{layer}.own": torch.randn(WIDTH) for layer in range(len(kinds))}
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    weights = [node.meta["weight"] for node in placeholders if "weight" in node.meta]
    assert sorted(weights) == sorted(values)
    ids = torch.tensor([3, 5])
    inputs = [
        values[node.meta["weight"]] if "weight" in node.meta else ids for node in placeholders
    ]
    (found,) = torch.fx.GraphModule(nn.Module(), graph)(*inputs)
    expected = values["embedding.weight"][ids]
    for layer, kind in enumerate(kinds):
        own = values[f"layers.{layer}.own"]
        expected = (expected + own) * 0.5 if kind == 0 else expected * own - 0.5
    assert torch.equal(found, -expected)
    calls = [node for node in graph.nodes if node.meta["layer"] is not None and node.args]
    assert [node.meta["layer"] for node in calls] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert all(node.meta["module"] == f"layers.{node.meta['layer']}" for node in calls)


def test_unfold_leaves_a_graph_without_repeated_layers() -> None:
    graph = two_kinds()
    before = str(graph)
    unfold(graph, Folding((0, 1)))
    assert str(graph) == before


def test_a_layer_with_two_exits_is_refused() -> None:
    with pytest.raises(CaptureError, match="layer 0 hands 2 values on") as caught:
        unfold(two_kinds(exits=2), Folding((0, 1, 0)))
    assert "--full-capture" in str(caught.value)

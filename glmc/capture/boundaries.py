"""Module boundaries: which node of a traced graph is what a module takes or returns.

While a model is traced, hooks see the tensors of its modules; the traced program returns them after
its logits, which ties each to its node, and the graph is rid of them again. A tensor that is
written in place after a module has taken or returned it is left out: the graph has no node of what
it was.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.fx import Node

from glmc.capture.layers import Copies, Folding
from glmc.capture.legacy import StackedExperts
from glmc.ir.rewrite import layer_of
from glmc_runtime.format.tensor_key import TensorKey
from glmc_runtime.record.module_tensors import module_tensors

Keys = dict[Node, tuple[TensorKey, ...]]


class Boundaries:
    """The tensors of the modules of ``model``, our own replacements of modules aside."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = [
            (path, module)
            for path, module in model.named_modules()
            if not isinstance(module, StackedExperts)
        ]
        self._keys: tuple[TensorKey, ...] = ()

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """The tensors of one call of the model, complete at the end of the block."""
        seen: list[tuple[TensorKey, Tensor, int]] = []
        tensors: list[Tensor] = []
        with module_tensors(self._modules, lambda key, it: seen.append((key, it, _writes(it)))):
            yield tensors
        kept = [(key, tensor) for key, tensor, written in seen if _writes(tensor) == written]
        self._keys = tuple(key for key, _ in kept)
        tensors.extend(tensor for _, tensor in kept)

    def taken_out(self, output: Node) -> Keys:
        """The keys of the nodes after the first that ``output`` has, which it has no longer."""
        returned: Any = output.args[0]
        output.args = (tuple(returned[:1]),)
        return _by_node(zip(self._keys, returned[1:], strict=True))


def _writes(tensor: Tensor) -> int:
    """How often a tensor was written in place; a caller's own in inference mode are not counted."""
    return 0 if tensor.is_inference() else tensor._version


def _by_node(pairs: Iterable[tuple[TensorKey, Node]]) -> Keys:
    keys: dict[Node, dict[TensorKey, None]] = {}
    for key, node in pairs:
        keys.setdefault(node, {})[key] = None
    return {node: tuple(some) for node, some in keys.items()}


class LayerKeys:
    """The keys of traced layers, given to the copies that are made of these."""

    def __init__(self, keys: Keys, folding: Folding) -> None:
        self._folding = folding
        self._pairs = [(key, node) for node, some in keys.items() for key in some]
        self._unfolded: list[tuple[TensorKey, Node]] = []
        classes = {key.module: key.class_name for key, _ in self._pairs}
        self._classes = {layer_of(path): name for path, name in classes.items() if _is_layer(path)}

    def copied(self, layer: int, copies: Copies) -> None:
        """``copies`` are the nodes of ``layer`` by those of the layer that stands for it."""
        kind = self._folding.kinds[layer]
        for key, node in self._pairs:
            if layer_of(key.module) == kind:
                self._unfolded.append((self._of_layer(key, kind, layer), copies.get(node, node)))

    def all(self, copies: Copies) -> Keys:
        """The keys after all layers; ``copies`` are of what is outside of them."""
        outside = [
            (key, copies.get(node, node))
            for key, node in self._pairs
            if layer_of(key.module) is None
        ]
        return _by_node((*self._unfolded, *outside))

    def _of_layer(self, key: TensorKey, kind: int, layer: int) -> TensorKey:
        module = re.sub(rf"layers\.{kind}(?!\d)", f"layers.{layer}", key.module, count=1)
        call = key.call
        if _is_layer(key.module):
            before = Counter(self._classes.get(each) for each in self._folding.kinds[:layer])
            call = before[key.class_name]
        return replace(key, module=module, call=call)


def _is_layer(path: str) -> bool:
    return re.search(r"(^|\.)layers\.\d+$", path) is not None

"""A block as an ONNX model, for Netron: names, edges, shapes and attributes.

Ops are in the domains ``glmc`` and ``aten``, with the names and arguments that they have in the
program; no ONNX runtime computes them. Weights are inputs of the model, so that files stay small.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import SymInt
from torch.fx import Node

from glmc.ir.match import op_name
from glmc.ir.ops import semantic_op
from glmc.observe.dump.blocks import Block, node_id
from glmc.observe.dump.parts import Part, part_of
from glmc.observe.dump.values import Values, constant, dtype_name

IR_VERSION = 9  # the first that all readers of opset 18 know
OPSET = 18
_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10}
_TYPES |= {"float64": 11, "bfloat16": 16}


class Builder:
    """The graph of one part while it is built. ``names`` are the values by node."""

    def __init__(self, part: Part, values: Values) -> None:
        from onnx import helper

        self.helper = helper
        self.part = part
        self.values = values
        self.names: dict[Node, str] = dict(part.names)
        self.nodes: list[Any] = []

    def add(self, op: str, inputs: list[str], outputs: list[str], domain: str, **more: Any) -> None:
        """One ONNX node; ``more`` are its attributes, those that are None left out."""
        attributes = {key: value for key, value in more.items() if value is not None}
        made = self.helper.make_node(op, inputs, outputs, domain=domain, **attributes)
        made.name = outputs[0]
        self.nodes.append(made)

    def emit(self, node: Node) -> None:
        """The ONNX nodes of one call."""
        count = len(self.nodes)
        if op_name(node) == "getitem" and isinstance(node.args[0], Node):
            self.names[node] = f"{self.names[node.args[0]]}_{node.args[1]}"
        else:
            inputs, attributes = self._bound(node)
            op = semantic_op(node.target)
            name = op_name(node).rpartition(".")[2] if op is None else op.name
            domain = "aten" if op is None else "glmc"
            self.add(name, inputs, self.outputs_of(node), domain, **attributes)
        for made in self.nodes[count:]:
            made.doc_string = f"{node_id(node)} {node.meta.get('source') or ''}".strip()

    def outputs_of(self, node: Node) -> list[str]:
        """The names of a call's values."""
        value = node.meta.get("val")
        name = self.names[node]
        if isinstance(value, (tuple, list)):
            return [f"{name}_{index}" for index in range(len(value))]
        return [name]

    def _bound(self, node: Node) -> tuple[list[str], dict[str, Any]]:
        """Operands, trailing absent ones left out, and the rest as attributes by name."""
        schema = getattr(node.target, "_schema", None)
        known = [item.name for item in schema.arguments] if schema is not None else []
        inputs: list[str] = []
        attributes: dict[str, Any] = {}
        bound = {
            (known[index] if index < len(known) else f"argument_{index}"): item
            for index, item in enumerate(node.args)
        }
        kinds = {item.name: str(item.type) for item in schema.arguments} if schema else {}
        for key, item in {**bound, **node.kwargs}.items():
            if isinstance(item, Node):
                inputs.append(self.names[item])
            elif isinstance(item, (list, tuple)) and any(isinstance(each, Node) for each in item):
                inputs += [self.names[each] for each in item if isinstance(each, Node)]
                attributes[key] = constant(
                    [each if not isinstance(each, Node) else None for each in item]
                )
            elif item is None and "Tensor" in kinds.get(key, ""):
                inputs.append("")
            else:
                attributes[key] = _attribute(item, kinds.get(key, ""))
        while inputs and not inputs[-1]:
            inputs.pop()
        return inputs, attributes

    def model(self) -> Any:
        """The onnx.ModelProto; checked by onnx's checker, whose error is let through."""
        import onnx

        for node in self.part.calls:
            self.emit(node)
        inputs = [self._info(self.names[node], node.meta.get("val")) for node in self.part.inputs]
        outputs = [
            self._info(self.names[node], node.meta["val"])
            for node in self.part.outputs
            if isinstance(node.meta.get("val"), torch.Tensor)
        ]
        graph = self.helper.make_graph(self.nodes, self.part.name, inputs, outputs)
        domains = {"": OPSET} | {node.domain: 1 for node in self.nodes if node.domain}
        model = self.helper.make_model(
            graph,
            opset_imports=[
                self.helper.make_opsetid(domain, version)
                for domain, version in sorted(domains.items())
            ],
            producer_name="glmc",
            ir_version=IR_VERSION,
        )
        onnx.checker.check_model(model)
        return model

    def _info(self, name: str, value: object) -> Any:
        if isinstance(value, torch.Tensor):
            shape = [
                size if isinstance(size, int) else self.values.size(size) for size in value.shape
            ]
            kind = _TYPES[dtype_name(value.dtype)]
            return self.helper.make_tensor_value_info(name, kind, shape)
        if isinstance(value, SymInt):
            return self.helper.make_tensor_value_info(name, _TYPES["int64"], [1])
        return self.helper.make_empty_tensor_value_info(name)


def _attribute(value: object, kind: str) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (int, float)):
        return float(value) if kind.startswith("float") else value
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, (list, tuple)) and value and all(type(item) is int for item in value):
        return list(value)
    return constant(value)


def part_model(block: Block, values: Values) -> bytes:
    """The model of a block, serialised; equal blocks give equal bytes."""
    data: bytes = Builder(part_of(block), values).model().SerializeToString(deterministic=True)
    return data

"""The aten ops that ONNX has too. Others stay aten ops, which no ONNX runtime knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import SymInt
from torch.fx import Node

from glmc.dump.onnx_functions import onnx_type
from glmc.dump.values import dtype_name
from glmc.ir.match import op_name

if TYPE_CHECKING:
    from glmc.dump.onnx_model import Builder

_FOREVER = (1 << 63) - 1
_BINARY = {"aten.add": "Add", "aten.mul": "Mul", "aten.sub": "Sub", "aten.div": "Div", "mul": "Mul"}
_UNARY = {
    "aten.sigmoid": "Sigmoid",
    "aten.neg": "Neg",
    "aten.sin": "Sin",
    "aten.cos": "Cos",
    "aten.bitwise_not": "Not",
    "aten.clone": "Identity",
}


def translate(builder: Builder, node: Node) -> bool:
    """Emit ONNX nodes for an aten call; False when it has to stay as it is."""
    name = op_name(node)
    if name in _BINARY and not node.kwargs and len(node.args) == 2:
        return _binary(builder, node, _BINARY[name])
    if name in _UNARY and _is_tensor(node.args[0]):
        builder.add(_UNARY[name], [_name(builder, node.args[0])], builder.outputs_of(node))
        return True
    special = _SPECIAL.get(name)
    return special is not None and special(builder, node)


def _binary(builder: Builder, node: Node, op: str) -> bool:
    names = []
    value = node.meta["val"]
    dtype = dtype_name(value.dtype) if isinstance(value, torch.Tensor) else "int64"
    for operand in node.args:
        if isinstance(operand, Node):
            mixed = _is_tensor(operand) and dtype_name(operand.meta["val"].dtype) != dtype
            names.append(_cast(builder, operand, dtype) if mixed else _name(builder, operand))
        elif isinstance(operand, (int, float)):
            names.append(builder.constant(operand, dtype))
        else:
            return False
    builder.add(op, names, builder.outputs_of(node))
    return True


def _cast(builder: Builder, operand: Node, dtype: str) -> str:
    name = f"{_name(builder, operand)}_{dtype}_{len(builder.nodes)}"
    kind = onnx_type(dtype)
    builder.add("Cast", [_name(builder, operand)], [name], to=kind)
    return name


def _reshape(builder: Builder, node: Node) -> bool:
    sizes = node.args[1]
    if not isinstance(sizes, (list, tuple)):
        return False
    pieces = []
    for size in sizes:
        if isinstance(size, Node):
            pieces.append(_name(builder, size))
        elif isinstance(size, int):
            pieces.append(builder.constant([size]))
        else:
            return False
    shape = f"{builder.names[node]}_shape"
    builder.add("Concat", pieces, [shape], axis=0)
    builder.add("Reshape", [_name(builder, node.args[0]), shape], builder.outputs_of(node))
    return True


def _silu(builder: Builder, node: Node) -> bool:
    source, inner = _name(builder, node.args[0]), f"{builder.names[node]}_sigmoid"
    builder.add("Sigmoid", [source], [inner])
    builder.add("Mul", [source, inner], builder.outputs_of(node))
    return True


def _size(builder: Builder, node: Node) -> bool:
    """One size as a vector of one, as all sizes are here."""
    dim = node.args[1]
    if not isinstance(dim, int) or dim < 0:
        return False
    source = _name(builder, node.args[0])
    builder.add("Shape", [source], builder.outputs_of(node), start=dim, end=dim + 1)
    return True


def _slice(builder: Builder, node: Node) -> bool:
    given = (*node.args[1:], *(0, 0, _FOREVER, 1)[len(node.args) - 1 :])
    dim, start, end, step = given[:4]
    numbers = [0 if start is None else start, _FOREVER if end is None else end, dim, step]
    if node.kwargs:
        return False
    names = [builder.constant([number]) for number in numbers if isinstance(number, int)]
    if len(names) != len(numbers):
        return False
    builder.add("Slice", [_name(builder, node.args[0]), *names], builder.outputs_of(node))
    return True


def _to_copy(builder: Builder, node: Node) -> bool:
    kind = onnx_type(dtype_name(node.meta["val"].dtype))
    builder.add("Cast", [_name(builder, node.args[0])], builder.outputs_of(node), to=kind)
    return True


def _unsqueeze(builder: Builder, node: Node) -> bool:
    if not isinstance(node.args[1], int):
        return False
    axes = builder.constant([node.args[1]])
    builder.add("Unsqueeze", [_name(builder, node.args[0]), axes], builder.outputs_of(node))
    return True


def _transpose(builder: Builder, node: Node) -> bool:
    first, second = node.args[1], node.args[2]
    order = list(range(node.meta["val"].dim()))
    if not isinstance(first, int) or not isinstance(second, int):
        return False
    order[first], order[second] = order[second], order[first]
    builder.add("Transpose", [_name(builder, node.args[0])], builder.outputs_of(node), perm=order)
    return True


def _cat(builder: Builder, node: Node) -> bool:
    tensors, axis = node.args[0], node.args[1] if len(node.args) > 1 else 0
    if not isinstance(tensors, (list, tuple)):
        return False
    names = [_name(builder, tensor) for tensor in tensors]
    builder.add("Concat", names, builder.outputs_of(node), axis=axis)
    return True


def _name(builder: Builder, node: object) -> str:
    if not isinstance(node, Node):
        raise TypeError(f"{node!r} is no node")
    return builder.names[node]


def _is_tensor(node: object) -> bool:
    return isinstance(node, Node) and not isinstance(node.meta.get("val"), (SymInt, tuple, list))


_SPECIAL: dict[str, Callable[[Builder, Node], bool]] = {
    "aten.reshape": _reshape,
    "aten.view": _reshape,
    "aten._unsafe_view": _reshape,
    "aten.silu": _silu,
    "aten.sym_size": _size,
    "aten.slice": _slice,
    "aten._to_copy": _to_copy,
    "aten.unsqueeze": _unsqueeze,
    "aten.transpose": _transpose,
    "aten.cat": _cat,
}

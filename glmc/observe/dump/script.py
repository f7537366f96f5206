"""The graph as plain Python that runs by itself on small random inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import SymInt
from torch.fx import Node

from glmc.errors import InternalError
from glmc.ir.match import op_name
from glmc.ir.ops import semantic_op
from glmc.ir.ops.collectives import is_collective
from glmc.ir.program import Program
from glmc.observe.dump.blocks import Block, node_id
from glmc.observe.dump.examples import block_size_of, step_inputs
from glmc.observe.dump.parts import Part, part_of
from glmc.observe.dump.values import Values, arguments, dtype_name

_OPS = "import glmc.ir.ops  # the glmc:: ops\n"
_PRELUDE = '''
import operator
import sys

import torch

import glmc.ir.ops  # the glmc:: ops

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape, dtype):
    """Small random numbers; drawn in float32, in pieces, so that huge weights fit."""
    values = torch.empty(shape, dtype=dtype)
    for piece in values.view(-1).split(1 << 24):
        piece.copy_(torch.randn(piece.shape, generator=GENERATOR).mul_(0.1))
    return values

'''
_RANKS = """
from glmc.ir.ops.collectives import over_ranks

RANKS = {ranks}


def of_all_ranks(name, x, *arguments):
    \"\"\"What a rank gets where all have the same tensor, as they do not: the
    numbers that follow are none of the model's. glmc.ir.ranks runs it with each rank's own.\"\"\"
    return over_ranks(name, [x] * RANKS, arguments)[0]

"""
_MAIN = """
def main(names):
    for name in names or PARTS:
        if name not in PARTS:
            sys.exit(f"no part {name}; there are {', '.join(PARTS)}")
        run, example, expected = PARTS[name]
        with torch.no_grad():
            results = run(*example())
        found = [f"{list(result.shape)} {result.dtype}" for result in results]
        print(name, ", ".join(found))
        if found != expected:
            sys.exit(f"{name}: expected {', '.join(expected)}")


if __name__ == "__main__":
    main(sys.argv[1:])
"""


def script(header: Sequence[str], program: Program, made: Sequence[Block], values: Values) -> str:
    """A Python file with one function a block. ``python FILE [PART ...]`` runs them.

    Raises InternalError for a graph that holds more than calls of functions.
    """
    literals = _literals(program, values)
    parts = [part for block in made if (part := part_of(block)).calls]
    text = "\n".join(f"# {line}".rstrip() for line in header) + "\n"
    text += "# python FILE [PART ...] runs it on small random inputs; sizes: "
    text += ", ".join(f"{name}={size}" for name, size in sorted(values.sizes.items())) + "\n"
    for block in made:
        if block.like:
            text += f"# {block.name} stands for layers {', '.join(map(str, block.like))} too\n"
    text += _PRELUDE.replace(_OPS, _OPS + _imports(program))
    if program.ranks > 1:
        text += _RANKS.format(ranks=program.ranks)
    for part in parts:
        text += function_text(part, values) + "\n\n" + _example(part, values, literals) + "\n\n"
    text += "PARTS = {\n"
    for part in parts:
        expected = [_expected(node, values) for node in part.outputs if _is_tensor(node)]
        text += f'    "{part.name}": (\n        {part.name},\n        example_{part.name},\n'
        text += f"        {expected!r},\n    ),\n"
    return text + "}\n\n" + _MAIN


def _imports(program: Program) -> str:
    """Modules of others that define ops of this program."""
    ops = (semantic_op(node.target) for node in program.graph.nodes)
    modules = {op.reference.__module__ for op in ops if op is not None}
    foreign = sorted(name for name in modules if name.partition(".")[0] != "glmc")
    return "".join(f"import {name}  # more glmc:: ops\n" for name in foreign)


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def _expected(node: Node, values: Values) -> str:
    value = node.meta["val"]
    return f"{list(values.shape(value))} {value.dtype}"


def function_text(part: Part, values: Values, *, single: bool = False) -> str:
    """A part as a Python function that returns the list of its outputs, or the ``single`` one.

    Raises InternalError for a part that holds more than calls of functions.
    """
    lines = [f"def {part.name}("]
    for node in part.inputs:
        lines.append(f"    {part.names[node]},  # {node_id(node)} {_shape(node, values)}")
    lines.append("):")
    for node in part.calls:
        lines.append(f"    {part.names[node]} = {_call(part, node)}  # {node_id(node)}")
    if single:
        lines.append(f"    return {part.names[part.outputs[0]]}")
        return "\n".join(lines) + "\n"
    results = [part.names[node] for node in part.outputs if _is_tensor(node)]
    lines.append(f"    return [{', '.join(results)}]")
    return "\n".join(lines) + "\n"


def _shape(node: Node, values: Values) -> str:
    return values.text(node.meta.get("val"))


def _call(part: Part, node: Node) -> str:
    if op_name(node) == "getitem":
        return f"{part.names[node.args[0]]}[{node.args[1]!r}]"  # type: ignore[index]
    given = arguments(node, lambda item: part.names[item])
    op = semantic_op(node.target)
    if op is not None and is_collective(op.name):
        return f"of_all_ranks({op.name!r}, {given})"
    return f"{target_text(node)}({given})"


def target_text(node: Node) -> str:
    """What a node calls, as Python over ``torch`` and ``operator``.

    Raises InternalError for a node that is no call of a function.
    """
    if node.op != "call_function":
        raise InternalError(f"{node_id(node)} is a {node.op} and no call", place=node_id(node))
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return f"torch.ops.{target}"
    module = str(getattr(target, "__module__", "torch")).replace("_operator", "operator")
    return f"{module}.{getattr(target, '__name__', target)}"


def _example(part: Part, values: Values, literals: dict[str, object]) -> str:
    lines = [f"def example_{part.name}():", "    return ["]
    lines += [f"        {_value(node, values, literals)}," for node in part.inputs]
    return "\n".join([*lines, "    ]\n"])


def _value(node: Node, values: Values, literals: dict[str, object]) -> str:
    value = node.meta.get("val")
    literal = literals.get(str(node.meta.get("input")))
    if isinstance(value, SymInt):
        return str(values.example(value))
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_tensor(item, values) for item in value)}]"
    if not isinstance(value, torch.Tensor):
        return repr(value)
    if literal is not None:
        return f"torch.tensor({literal}, dtype={value.dtype})"
    return _tensor(value, values)


def _tensor(value: torch.Tensor, values: Values) -> str:
    sizes = values.shape(value)
    if value.is_floating_point():
        return f"random({''.join(f'{size}, ' for size in sizes)}dtype={value.dtype})"
    fill = "ones" if dtype_name(value.dtype) == "bool" else "zeros"
    return f"torch.{fill}({sizes}, dtype={value.dtype})"


def _literals(program: Program, values: Values) -> dict[str, object]:
    sizes = values.sizes
    block_size = block_size_of(list(program.inputs()), values)
    return step_inputs(program.phase, block_size, sizes["table"], sizes["batch"], sizes["length"])

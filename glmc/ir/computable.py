"""Whether an op takes the operands that a pass found for it, asked of its own reference.

A matcher reads conditions one by one, and a fake kernel only says what comes out. The reference,
run on tensors without memory, also refuses what no kernel could compute: a mask of integers, sizes
that do not fit. That is a near miss of the pass then, and no error in the program's first call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import SymInt, Tensor
from torch.fx import Node

from glmc.ir.match import require
from glmc.ir.ops.registry import semantic_op
from glmc.ir.probe import example_size
from glmc.ir.program import Program
from glmc.ir.signature import once, value_key


def require_computable(
    program: Program, target: Callable[..., Any], arguments: Sequence[Any], value: Any, node: Node
) -> None:
    """Refuse at ``node`` unless the reference of ``target`` makes a ``value`` of ``arguments``."""
    op = semantic_op(target)
    if op is None:
        return
    fakes: Any = torch.fx.node.map_arg(tuple(arguments), lambda each: each.meta["val"])

    def asked() -> str:
        examples = torch.utils._pytree.tree_map(_example, fakes)
        try:
            with torch.no_grad():
                result = op.reference(*examples)
        except NotImplementedError:
            return ""  # what comes out hangs on values, which are not here
        except (RuntimeError, ValueError, LookupError, TypeError) as error:
            return str(error).strip().splitlines()[0]
        alike = _kinds(result) == _kinds(torch.utils._pytree.tree_map(_example, value))
        return "" if alike else "the results have other shapes or dtypes"

    problem = once(program, ("computable", op.name, value_key(fakes)), asked)
    require(not problem, node, f"{op.name} must take its operands: {problem}")


def _example(value: Any) -> Any:
    if isinstance(value, Tensor):
        sizes = [example_size(size) for size in value.shape]
        return torch.empty(sizes, dtype=value.dtype, device="meta")
    return example_size(value) if isinstance(value, SymInt) else value


def _kinds(value: Any) -> list[Any]:
    results = value if isinstance(value, (tuple, list)) else (value,)
    return [(tuple(each.shape), each.dtype) for each in results]

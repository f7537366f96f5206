"""Checks before a graph is compiled: gradients, loops over experts, a mocked compile."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import SymInt, Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_flatten

from glmc.dynamo.compile.views import VIEWS
from glmc.errors import UsageError
from glmc.ir import match as m
from glmc.ir.program import Program

# Facts: vllm-kunlun issue 489, and the openwiki of torch_xmlir on its replacements.
XMLIR_VARIABLES = {
    "XMLIR_FORCE_USE_XPU_GRAPH": "1",
    "XMLIR_ENABLE_MOCK_TORCH_COMPILE": "false",
    "XMLIR_DYNAMO_WORKAROUND": "1",
}


def refuse_gradients(module: GraphModule, examples: Sequence[Any]) -> None:
    """Raise UsageError where a graph would have to be differentiated: one of its results, as
    Dynamo saw them, carries gradients."""
    wanted = [item for item in examples if isinstance(item, Tensor) and item.requires_grad]
    if wanted and torch.is_grad_enabled() and any(map(_carries_gradients, traced_outputs(module))):
        raise UsageError(
            "backend 'kunlun' is for inference only: this graph needs gradients",
            place="torch.compile(..., backend='kunlun')",
            expected="torch.no_grad() or torch.inference_mode() around the call",
            found=f"{len(wanted)} inputs or parameters that require gradients",
            remedy="call the model under torch.no_grad(), or model.requires_grad_(False)",
        )


def traced_outputs(module: GraphModule) -> list[Any]:
    """Dynamo's values of what its ``module`` returns, in order: fake tensors, numbers, None."""
    output = next(node for node in reversed(module.graph.nodes) if node.op == "output")
    items, _ = tree_flatten(output.args[0])
    return [item.meta.get("example_value") if isinstance(item, Node) else item for item in items]


def _carries_gradients(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def eager_experts_in(module: GraphModule) -> str | None:
    """A sentence for the user where Dynamo ended the graph at a loop over the experts that were
    hit: how many there are depends on the data."""
    reason = getattr(module, "compile_subgraph_reason", None)
    if reason is None or not reason.graph_break or not reason.user_stack:
        return None
    frame = reason.user_stack[-1]
    if "nonzero" not in str(reason.reason) or "expert" not in (frame.line or ""):
        return None
    return (
        f"{frame.filename}:{frame.lineno}: the eager experts loop over those that were hit, which "
        "depends on the data, so the graph breaks in every MoE layer and no experts are fused; "
        "call model.set_experts_implementation('batched_mm') before torch.compile ('grouped_mm' "
        "works too)"
    )


def first_call(examples: Sequence[Any]) -> list[Any] | None:
    """The tensors and numbers of a graph's first call; None for one that is compiled without them.

    A symbolic size is read by its hint: as an int it would guard the graph to that one size.
    """
    calls: list[Any] = []
    for item in examples:
        known = item.node.hint if isinstance(item, SymInt) else item
        if isinstance(item, FakeTensor) or (isinstance(item, SymInt) and known is None):
            return None
        calls.append(known)
    return calls


def strided_reader(program: Program) -> str | None:
    """A sentence for the user where an op reads memory by strides that another value than its
    operand has in a plan: in eager code an operand may be non-contiguous, or in a part of a
    storage."""
    for node in program.graph.nodes:
        if not m.is_op(node, "aten.as_strided", "aten.as_strided_scatter", "aten.as_strided_copy"):
            continue
        read = m.operand(node, 0)
        value = m.tensor(read)
        whole = read.op == "call_function" and m.op_name(read) not in VIEWS
        if not (whole and value.is_contiguous() and value.storage_offset() == 0):
            place = node.meta.get("source") or node.meta["id"]
            return f"{place}: as_strided reads memory by strides, so this graph runs as eager code"
    return None


def mocked_compile() -> str | None:
    """Why ``torch.compile`` does nothing on this machine, or None where it works.

    torch_xmlir, the Kunlun shim, replaces ``torch.compile`` by a decorator that returns the model
    as it is, so no backend is ever called.
    """
    module = getattr(torch.compile, "__module__", "") or ""
    if module == "torch" or module.startswith("torch._"):
        return None
    wrong = [
        f"{name}={value}"
        for name, value in XMLIR_VARIABLES.items()
        if os.environ.get(name) != value
    ] or [f"{name}={value}" for name, value in XMLIR_VARIABLES.items()]
    return (
        f"torch.compile is replaced by {module}, which returns the model as it is: backend "
        f"'kunlun' is never called. Set {', '.join(wrong)} before Python starts"
    )

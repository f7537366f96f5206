"""In which dtype a router's weight is stored, whatever dtype the installed transformers gives it.

Routers compute in float32 and read their weight in any dtype. transformers up to 5.23 keeps the
weight in the model's dtype, 5.24 in float32. Here it is the model's where that holds every stored
value exactly (a bfloat16 checkpoint: the same numbers as in float32, half the bytes), else
float32: a router that a checkpoint stores in float32 is never rounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch.fx import Node

from glmc.ir.program import Program

ROUTER = ".mlp.gate.weight"
_CAST = torch.ops.aten._to_copy.default


def router_dtype(stored: Iterable[torch.dtype], model: torch.dtype) -> torch.dtype:
    """For routers that a checkpoint stores in ``stored``, in a model of dtype ``model``."""
    exact = all(torch.promote_types(dtype, model) == model for dtype in stored)
    return model if exact else torch.float32


def store_routers(program: Program, dtype: torch.dtype) -> None:
    """Give the routers' weights ``dtype`` in a captured program, in place.

    The value that the router computes with stays: a narrower weight is cast up in the graph, and
    where a wider one is wanted the graph's own cast to float32 has nothing left to do.
    """
    graph = program.graph
    for node in list(graph.nodes):
        name = node.meta.get("weight", "")
        if not name.endswith(ROUTER) or node.meta["val"].dtype == dtype:
            continue
        traced = node.meta["val"].dtype
        if torch.promote_types(traced, dtype) == dtype:
            if not all(_widens(user, dtype) for user in node.users):
                continue
            _retype(node, dtype)
            for user in list(node.users):
                user.replace_all_uses_with(node)
                graph.erase_node(user)
        else:
            before = dict(node.meta)
            users = list(node.users)
            _retype(node, dtype)
            with graph.inserting_before(users[0]):
                cast = graph.call_function(_CAST, (node,), {"dtype": traced})
            cast.meta = {**before, "id": f"{name}#_to_copy"}
            del cast.meta["weight"]
            for user in users:
                user.replace_input_with(node, cast)
        program.weights[name] = replace(program.weights[name], dtype=dtype)
    graph.lint()


def _widens(user: Node, dtype: torch.dtype) -> bool:
    return user.target is _CAST and user.kwargs.get("dtype") == dtype


def _retype(node: Node, dtype: torch.dtype) -> None:
    node.meta = {**node.meta, "val": node.meta["val"].to(dtype)}

"""The router: sigmoid scores, biased choice, optional groups, weights; all in float32."""

from __future__ import annotations

from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import in_order, require_dtype, require_shape
from glmc_runtime.kernels.cpu.packed import Contents, contents
from glmc_runtime.kernels.schema import flag, integer, number, schema, scratch, tensor, written


class _Router:
    """A router's weight and its transpose in float32, shared by all buckets of a layer."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight  # kept, so that its address, the key below, stays its own
        self.transposed = weight.float().t()

    def score(self, x: torch.Tensor, logits: torch.Tensor) -> None:
        torch.mm(x, self.transposed, out=logits)


_ROUTERS: WeakValueDictionary[Contents, _Router] = WeakValueDictionary()


def shared_router(weight: torch.Tensor) -> _Router:
    """The float32 form of a router, made once while something is bound to it."""
    key = contents(weight)
    router = _ROUTERS.get(key)
    if router is None:
        router = _ROUTERS[key] = _Router(weight)
    return router


def _keep_best_groups(
    arguments: dict[str, Any], choice: torch.Tensor, groups: int, top_groups: int
) -> list[Thunk]:
    """Overwrite the scores of experts outside the best groups."""
    tokens, experts = choice.shape
    best, group_scores = arguments["best_scores"], arguments["group_scores"]
    best_ids, chosen, dropped = (
        arguments[name] for name in ("best_ids", "chosen_groups", "dropped")
    )
    by_group = choice.view(tokens, groups, experts // groups)
    chosen_scores = arguments["chosen_scores"]
    return [
        partial(torch.topk, by_group, 2, -1, out=(best, best_ids)),
        partial(torch.sum, best, -1, out=group_scores),
        partial(torch.topk, group_scores, top_groups, -1, True, False, out=(chosen_scores, chosen)),
        partial(dropped.fill_, True),
        partial(dropped.scatter_, 1, chosen, False),
        partial(by_group.masked_fill_, dropped.unsqueeze(-1), float(arguments["group_fill"])),
    ]


@register(
    "cpu.moe_gate",
    schema(
        tensor("x", "tokens hidden"),
        tensor("weight", "experts hidden"),
        tensor("bias", "experts", "float32"),
        integer("groups", 1),
        integer("top_groups", 1),
        number("group_fill", infinite=True),
        flag("normalize"),
        number("normalize_eps", 0, 1),
        number("scale"),
        written("weights", "tokens top_k", "float32"),
        written("ids", "tokens top_k", "int64", below="experts"),
        written("x_float", "tokens hidden", "float32"),
        written("logits", "tokens experts", "float32"),
        written("choice", "tokens experts", "float32"),
        written("chosen_values", "tokens top_k", "float32"),
        written("sums", "tokens 1", "float32"),
        scratch("best_scores", "tokens groups 2", "float32"),
        scratch("best_ids", "tokens groups 2", "int64"),
        scratch("group_scores", "tokens groups", "float32"),
        scratch("dropped", "tokens groups", "bool"),
        scratch("chosen_scores", "tokens top_groups", "float32"),
        scratch("chosen_groups", "tokens top_groups", "int64"),
        relations=(
            "experts % groups == 0",
            "top_groups <= groups",
            "top_k <= experts",
            "groups == top_groups or best_scores.given",
            "groups == top_groups or 2*groups <= experts",
        ),
        together=(
            (
                "best_scores",
                "best_ids",
                "group_scores",
                "dropped",
                "chosen_scores",
                "chosen_groups",
            ),
        ),
    ),
)
def moe_gate(arguments: dict[str, Any]) -> Thunk:
    """x [tokens, hidden], weight [experts, hidden], bias float32 [experts] -> weights float32 and
    ids int64 [tokens, top_k]; constants as in the semantic op.

    Scratch: x_float float32 like x, logits and choice float32 [tokens, experts], chosen_values
    float32 [tokens, top_k], sums float32 [tokens, 1]; with groups also best_scores float32 and
    best_ids int64 [tokens, groups, 2], group_scores float32 and dropped bool [tokens, groups],
    chosen_scores float32 and chosen_groups int64 [tokens, top_groups]. The weight is cast to
    float32 here, once for all bindings.
    """
    x, weight, bias = arguments["x"], arguments["weight"], arguments["bias"]
    weights, ids = arguments["weights"], arguments["ids"]
    tokens, top_k = ids.shape
    experts = weight.shape[0]
    groups, top_groups = int(arguments["groups"]), int(arguments["top_groups"])
    x_float, logits, choice = (arguments[name] for name in ("x_float", "logits", "choice"))
    require_dtype("bias", bias, torch.float32)
    require_dtype("weights", weights, torch.float32)
    require_dtype("ids", ids, torch.int64)
    require_shape("weight", weight, (experts, x.shape[1]))
    require_shape("logits", logits, (tokens, experts))
    require_shape("choice", choice, (tokens, experts))
    if experts % groups or not 0 < top_groups <= groups or not 0 < top_k <= experts:
        raise PlanError(
            "the gate's numbers do not fit together",
            found=f"{experts} experts, {groups} groups, {top_groups} best, top {top_k}",
        )
    steps: list[Thunk] = [
        partial(x_float.copy_, x),
        partial(shared_router(weight).score, x_float, logits),
        partial(torch.sigmoid, logits, out=logits),
        partial(torch.add, logits, bias, out=choice),
    ]
    if groups != top_groups:
        steps += _keep_best_groups(arguments, choice, groups, top_groups)
    values = arguments["chosen_values"]
    steps += [
        partial(torch.topk, choice, top_k, -1, True, False, out=(values, ids)),
        partial(torch.gather, logits, 1, ids, out=weights),
    ]
    if arguments["normalize"]:
        sums = arguments["sums"]
        steps += [
            partial(torch.sum, weights, -1, True, out=sums),
            partial(sums.add_, float(arguments["normalize_eps"])),
            partial(weights.div_, sums),
        ]
    steps.append(partial(weights.mul_, float(arguments["scale"])))
    return in_order(*steps)

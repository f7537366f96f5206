"""The sigmoid router in plain torch: the CPU's, and that of gates that no vendor kernel can be."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import in_order, require_dtype
from glmc_runtime.kernels.schema import INDICES, flag, integer, number, schema, tensor, written
from glmc_runtime.kernels.shared_schemas import GROUPS

SIGMOID_GROUP_TOPK = schema(
    tensor("logits", "tokens experts", "float32"),
    tensor("bias", "experts", "float32"),
    integer("top_k", 1, equals="chosen"),
    integer("groups", 1),
    integer("top_groups", 1),
    number("fill", infinite=True),
    flag("normalize"),
    number("eps", 0, 1),
    number("scale"),
    written("weights", "tokens chosen", "float32"),
    written("ids", "tokens chosen", *INDICES, below="experts"),
    relations=(*GROUPS, "chosen <= experts"),
)


@register("router.sigmoid_group_topk", SIGMOID_GROUP_TOPK)
def sigmoid_group_topk(arguments: dict[str, Any]) -> Thunk:
    """:func:`choose_experts` of ``logits`` float32 [tokens, experts], which stay as they are; ids
    int32 or int64. The work space is made when the call is bound, so a step allocates nothing."""
    return chosen(arguments, lambda logits, scores: partial(torch.sigmoid, logits, out=scores))


def chosen(
    arguments: dict[str, Any],
    score: Callable[[Tensor, Tensor], Thunk],
    add_up: Callable[[Tensor, Tensor], Thunk] | None = None,
) -> Thunk:
    """``router.sigmoid_group_topk`` with a sigmoid of one's own, of the first tensor into the
    second; ``add_up`` as for :func:`choose_experts`."""
    logits, ids = arguments["logits"], arguments["ids"]
    tokens, groups, top_groups = len(logits), arguments["groups"], arguments["top_groups"]

    def floats(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=logits.device)

    def indices(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int64, device=logits.device)

    scores, own_ids = torch.empty_like(logits), indices(*ids.shape)
    steps = choose_experts(
        {
            **arguments,
            "group_fill": arguments["fill"],
            "normalize_eps": arguments["eps"],
            "ids": own_ids,
            "choice": torch.empty_like(logits),
            "chosen_values": floats(*ids.shape),
            "sums": floats(tokens, 1),
            "best_scores": floats(tokens, groups, 2),
            "best_ids": indices(tokens, groups, 2),
            "group_scores": floats(tokens, groups),
            "dropped": torch.empty(tokens, groups, dtype=torch.bool, device=logits.device),
            "chosen_scores": floats(tokens, top_groups),
            "chosen_groups": indices(tokens, top_groups),
        },
        scores,
        add_up,
    )
    return in_order(score(logits, scores), *steps, partial(ids.copy_, own_ids))


def choose_experts(
    arguments: dict[str, Any],
    scores: Tensor,
    add_up: Callable[[Tensor, Tensor], Thunk] | None = None,
) -> list[Thunk]:
    """Choose experts by biased sigmoid ``scores`` [tokens, experts] and weigh them with unbiased
    ones; all in float32.

    ``bias`` [experts]. When ``groups`` differs from ``top_groups``, scores outside the
    ``top_groups`` best groups (by the sum of their two best) become ``group_fill``. Writes
    ``weights`` [tokens, top_k], divided by their sum + ``normalize_eps`` with ``normalize`` and
    multiplied by ``scale``, and ``ids`` int64 [tokens, top_k]. Scratch: choice like scores,
    chosen_values like weights, sums [tokens, 1]; with groups also best_scores and best_ids int64
    [tokens, groups, 2], group_scores and dropped bool [tokens, groups], chosen_scores and
    chosen_groups int64 [tokens, top_groups]. ``add_up`` makes what sums each row of weights in
    place of ``torch.sum``. Raises PlanError for sizes that do not fit.
    """
    bias, weights, ids = arguments["bias"], arguments["weights"], arguments["ids"]
    choice, groups, top_groups = (arguments[key] for key in ("choice", "groups", "top_groups"))
    (tokens, experts), top_k = scores.shape, arguments.get("top_k", ids.shape[-1])
    require_dtype("bias", bias, torch.float32)
    require_dtype("weights", weights, torch.float32)
    fits = (
        groups >= 1
        and experts % groups == 0
        and 1 <= top_groups <= groups
        and (groups == top_groups or experts // groups >= 2)
        and 1 <= top_k <= experts
        and bias.shape == (experts,)
        and choice.shape == scores.shape
        and weights.shape == ids.shape == (tokens, top_k)
    )
    if not fits:
        raise PlanError(
            "a router's shapes do not fit together",
            expected="groups that divide the experts, of at least 2; top_groups up to groups; "
            f"top_k up to {experts}; bias [{experts}]; weights and ids [{tokens}, top_k]",
            found=f"{groups} groups, top_groups {top_groups}, top_k {top_k}, "
            f"bias {list(bias.shape)}, weights {list(weights.shape)}, ids {list(ids.shape)}",
        )
    steps: list[Thunk] = [partial(torch.add, scores, bias, out=choice)]
    if groups != top_groups:
        steps += _keep_best_groups(arguments, choice.view(tokens, groups, -1))
    values = arguments["chosen_values"]
    steps += [
        partial(torch.topk, choice, top_k, -1, True, False, out=(values, ids)),
        partial(torch.gather, scores, 1, ids, out=weights),
    ]
    if arguments["normalize"]:
        sums = arguments["sums"]
        steps += [
            (add_up or _add_up)(weights, sums),
            partial(sums.add_, float(arguments["normalize_eps"])),
            partial(weights.div_, sums),
        ]
    return [*steps, partial(weights.mul_, float(arguments["scale"]))]


def _add_up(weights: Tensor, sums: Tensor) -> Thunk:
    return partial(torch.sum, weights, -1, True, out=sums)


def _keep_best_groups(arguments: dict[str, Any], by_group: Tensor) -> list[Thunk]:
    """Overwrite the scores [tokens, groups, experts of a group] outside the best groups."""
    best, best_ids = arguments["best_scores"], arguments["best_ids"]
    group_scores, dropped = arguments["group_scores"], arguments["dropped"]
    scores, groups = arguments["chosen_scores"], arguments["chosen_groups"]
    top_groups = arguments["top_groups"]
    return [
        partial(torch.topk, by_group, 2, -1, out=(best, best_ids)),
        partial(torch.sum, best, -1, out=group_scores),
        partial(torch.topk, group_scores, top_groups, -1, True, False, out=(scores, groups)),
        partial(dropped.fill_, True),
        partial(dropped.scatter_, 1, groups, False),
        partial(by_group.masked_fill_, dropped.unsqueeze(-1), float(arguments["group_fill"])),
    ]

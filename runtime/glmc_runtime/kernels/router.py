"""The sigmoid router in plain torch, for gates that no vendor kernel can stand for."""

from __future__ import annotations

from typing import Any

import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.schema import INDICES, flag, integer, number, schema, tensor, written


@register(
    "router.sigmoid_group_topk",
    schema(
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
        relations=(
            "experts % groups == 0",
            "top_groups <= groups",
            "chosen <= experts",
            "groups == top_groups or 2*groups <= experts",
        ),
    ),
)
def sigmoid_group_topk(arguments: dict[str, Any]) -> Thunk:
    """Choose experts by biased sigmoid scores and weigh them with the unbiased ones.

    ``logits`` float32 [tokens, experts], ``bias`` float32 [experts]. When ``groups`` differs from
    ``top_groups``, scores outside the ``top_groups`` best groups (by the sum of their two best)
    become ``fill``. Writes ``weights`` float32 [tokens, top_k], divided by their sum + ``eps`` with
    ``normalize`` and multiplied by ``scale``, and ``ids`` int32 or int64 [tokens, top_k]. Raises
    PlanError for shapes that do not fit.
    """
    return _Router(arguments).run


class _Router:
    """The work space is made when the call is bound, so a step allocates nothing."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._logits: torch.Tensor = arguments["logits"]
        self._bias: torch.Tensor = arguments["bias"]
        self._weights: torch.Tensor = arguments["weights"]
        self._ids: torch.Tensor = arguments["ids"]
        self._groups: int = arguments["groups"]
        self._top_groups: int = arguments["top_groups"]
        self._top_k: int = arguments["top_k"]
        self._fill: float = arguments["fill"]
        self._normalize: bool = arguments["normalize"]
        self._eps: float = arguments["eps"]
        self._scale: float = arguments["scale"]
        tokens, experts = self._logits.shape
        self._check(tokens, experts)
        self._scores = torch.empty_like(self._logits)
        self._choice = torch.empty_like(self._logits)
        self._by_group = self._choice.view(tokens, self._groups, -1)
        self._group_scores = self._logits.new_empty(tokens, self._groups)
        self._dropped = torch.empty_like(self._group_scores, dtype=torch.bool)
        self._best_two = self._top_k_space(tokens, self._groups, 2)
        self._chosen = self._top_k_space(tokens, self._top_groups)
        self._experts = self._top_k_space(tokens, self._top_k)
        self._total = self._logits.new_empty(tokens, 1)

    def _top_k_space(self, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
        values = self._logits.new_empty(shape)
        return values, torch.empty_like(values, dtype=torch.int64)

    def _check(self, tokens: int, experts: int) -> None:
        grouped = self._groups != self._top_groups
        fits = (
            self._groups >= 1
            and experts % self._groups == 0
            and 1 <= self._top_groups <= self._groups
            and (not grouped or experts // self._groups >= 2)
            and self._top_k <= experts
            and self._bias.shape == (experts,)
            and self._weights.shape == self._ids.shape == (tokens, self._top_k)
        )
        if not fits:
            raise PlanError(
                "a router's shapes do not fit",
                expected="groups that divide the experts, of at least 2; top_groups up to groups; "
                f"bias [{experts}]; weights and ids [{tokens}, top_k]",
                found=f"{self._groups} groups, top_groups {self._top_groups}, top_k {self._top_k}, "
                f"bias {list(self._bias.shape)}, weights {list(self._weights.shape)}, "
                f"ids {list(self._ids.shape)}",
            )

    def run(self) -> None:
        torch.sigmoid(self._logits, out=self._scores)
        torch.add(self._scores, self._bias, out=self._choice)
        if self._groups != self._top_groups:
            self._drop_groups()
        torch.topk(self._choice, self._top_k, -1, sorted=False, out=self._experts)
        ids = self._experts[1]
        torch.gather(self._scores, 1, ids, out=self._weights)
        if self._normalize:
            torch.sum(self._weights, -1, keepdim=True, out=self._total)
            self._weights.div_(self._total.add_(self._eps))
        self._weights.mul_(self._scale)
        self._ids.copy_(ids)

    def _drop_groups(self) -> None:
        torch.topk(self._by_group, 2, -1, out=self._best_two)
        torch.sum(self._best_two[0], -1, out=self._group_scores)
        torch.topk(self._group_scores, self._top_groups, -1, sorted=False, out=self._chosen)
        self._dropped.fill_(True).scatter_(1, self._chosen[1], False)
        self._by_group.masked_fill_(self._dropped.unsqueeze(-1), self._fill)

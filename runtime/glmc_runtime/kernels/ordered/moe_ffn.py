"""The routed experts in a fixed order of sums: each product by its row, the sum over the chosen
experts by slot."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.checks import in_order, require_dtype, require_shape
from glmc_runtime.kernels.cpu.moe_ffn import groups_of, weight_of
from glmc_runtime.kernels.ordered.native import SEGMENTS, combine, gated, product
from glmc_runtime.kernels.schema import integer, schema, written
from glmc_runtime.kernels.shared_schemas import EXPERTS, EXPERTS_ORDER, EXPERTS_ROWS

_MAXIMUM_THUNKS = 4096


@register(
    "ordered.moe_ffn",
    schema(
        *EXPERTS,
        *EXPERTS_ROWS,
        *EXPERTS_ORDER,
        host=True,
    ),
)
def moe_ffn(arguments: dict[str, Any]) -> Thunk:
    """As ``cpu.moe_ffn``: results of experts are rounded to the dtype, weighed and added in
    float32, slot after slot, and rounded once more. Reads ids on the host."""
    x, out, ids = (arguments[name] for name in ("x", "out", "ids"))
    gate_up, down = arguments["gate_up"], arguments["down"]
    gathered, results, merged, activated = (
        arguments[name] for name in ("gathered", "results", "merged", "activated")
    )
    (tokens, top_k), hidden, width = ids.shape, down.shape[1], down.shape[2]
    require_dtype("ids", ids, torch.int64)
    for name, like in (("gate_up", gate_up), ("down", down), ("out", out)):
        require_dtype(name, like, x.dtype)
    require_shape("x", x, (tokens, hidden))
    require_shape("gate_up", gate_up, (down.shape[0], 2 * width, hidden))
    require_shape("merged", merged, (tokens * top_k, 2 * width))
    first = _ExpertProduct(gathered, gate_up, merged)
    second = _ExpertProduct(activated, down, results)
    sort, groups = by_expert(arguments, x, gathered)
    activate = gated(merged[:, :width], merged[:, width:], activated)
    add = combine(gathered.view(tokens, top_k, 1, hidden), arguments["weights"], out)
    order = arguments["order"]

    def run() -> None:
        sort()
        found = groups_of(groups.tolist())
        for group in found:
            first(group)
        activate()
        for group in found:
            second(group)
        gathered.index_copy_(0, order, results)
        add()

    return run


@register(
    "ordered.moe_ffn_apart",
    schema(
        *(argument for argument in EXPERTS if argument.name != "out"),
        written("out", "tokens segments hidden", "float32"),
        written("gathered", "tokens*top_k hidden", like="x"),
        written("merged", "tokens*top_k 2*width", like="x"),
        written("activated", "tokens*top_k width", like="x"),
        written("scales", "tokens*top_k", "float32"),
        *EXPERTS_ORDER,
        integer("inner_segments", choices=SEGMENTS),
        integer("inner_length", 1),
        integer("segments", choices=SEGMENTS),
        integer("length", 1),
        relations=("inner_segments*inner_length == hidden", "segments*length == width"),
        host=True,
    ),
)
def moe_ffn_apart(arguments: dict[str, Any]) -> Thunk:
    """The routed experts in float32, the sums over ``width`` left in segments: out [tokens,
    segments, hidden]. Results are weighed and added in the order of the experts' numbers, nothing
    is rounded in between. ``inner``: how sums over ``hidden`` are cut. Reads ids on the host."""
    x, out, ids = (arguments[name] for name in ("x", "out", "ids"))
    gate_up, down, weights = (arguments[name] for name in ("gate_up", "down", "weights"))
    gathered, merged, activated = (arguments[name] for name in ("gathered", "merged", "activated"))
    scales, order, rows = (arguments[name] for name in ("scales", "order", "rows"))
    (tokens, top_k), hidden, width = ids.shape, down.shape[1], down.shape[2]
    require_dtype("ids", ids, torch.int64)
    for name, like in (("gate_up", gate_up), ("down", down)):
        require_dtype(name, like, x.dtype)
    require_shape("x", x, (tokens, hidden))
    require_shape("merged", merged, (tokens * top_k, 2 * width))
    inner = int(arguments["inner_segments"]), int(arguments["inner_length"])
    outer = int(arguments["segments"]), int(arguments["length"])
    first = _ExpertProduct(gathered, gate_up, merged, inner)
    second = _ExpertProduct(activated, down, out, outer, (rows, scales))
    sort, sorted_ids = by_expert(arguments, x, gathered)
    activate = gated(merged[:, :width], merged[:, width:], activated)
    weigh = partial(torch.index_select, weights.view(-1), 0, order, out=scales)

    def run() -> None:
        sort()
        weigh()
        found = groups_of(sorted_ids.tolist())
        for group in found:
            first(group)
        activate()
        out.zero_()
        for group in found:
            second(group)

    return run


def by_expert(
    arguments: dict[str, Any], x: torch.Tensor, gathered: torch.Tensor
) -> tuple[Thunk, torch.Tensor]:
    """What gathers the rows of x by expert, and the sorted ids that it leaves."""
    ids, order, rows = arguments["ids"], arguments["order"], arguments["rows"]
    sorted_ids, top_k = arguments["sorted_ids"], ids.shape[1]
    sort = in_order(
        partial(torch.sort, ids.view(-1), stable=True, out=(sorted_ids, order)),
        partial(torch.div, order, top_k, rounding_mode="floor", out=rows),
        partial(torch.index_select, x, 0, rows, out=gathered),
    )
    return sort, sorted_ids


class _ExpertProduct:
    """``out[rows] = x[rows] @ weight[expert].T`` for a group (expert, first row, rows), or with
    ``added_to`` (see :func:`~glmc_runtime.kernels.ordered.native.product`) added to rows of out; a
    thunk is kept for the next step."""

    def __init__(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        out: torch.Tensor,
        sums: tuple[int, int] = (1, 0),
        added_to: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        self._x, self._out, self._weights = x, out, weight.unbind(0)
        self._segments, self._length = sums[0], sums[1] or weight.shape[-1]
        self._added_to = added_to
        self._thunks: dict[tuple[int, int, int], Thunk] = {}

    def __call__(self, group: tuple[int, int, int]) -> None:
        thunk = self._thunks.get(group)
        if thunk is None:
            if len(self._thunks) >= _MAXIMUM_THUNKS:
                self._thunks.clear()
            thunk = self._thunks[group] = self._made(*group)
        thunk()

    def _made(self, expert: int, start: int, count: int) -> Thunk:
        x, weight = self._x.narrow(0, start, count), weight_of(self._weights, expert)
        sums = (self._segments, self._length)
        if self._added_to is None:
            return product(x, weight, self._out.narrow(0, start, count), None, *sums)
        places, scales = (tensor.narrow(0, start, count) for tensor in self._added_to)
        return product(x, weight, self._out, None, *sums, apart=True, added_to=(places, scales))

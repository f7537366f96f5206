"""The group stage of a router: which mask keeps the experts of the best groups.

Shared by nothing but ``moe_gate``; apart because it is a pattern of its own. Spellings: the group
mask made by ``scatter`` (ones over zeros or zeros over ones) or ``one_hot``, widened to the experts
by ``expand``, ``repeat_interleave`` or broadcasting, applied by ``masked_fill`` or ``where``, in
[tokens, experts] or [tokens, groups, experts of a group].
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from glmc.ir import match as m
from glmc.ir.accounting import given, note

_ZEROS = ("aten.zeros_like", "aten.new_zeros", "aten.zeros")
_ONES = ("aten.ones_like", "aten.new_ones", "aten.ones")
_FULLS = {"aten.full": 1, "aten.full_like": 1, "aten.scalar_tensor": 0, "aten.new_full": 2}


@dataclass(frozen=True)
class Groups:
    """``chosen`` of ``count`` groups are kept; the scores of the others become ``fill``."""

    count: int
    chosen: int
    fill: float


NO_GROUPS = Groups(1, 1, 0.0)


def match_groups(choice: Node) -> tuple[Groups, Node]:
    """The group stage above ``choice`` (NO_GROUPS when there is none), and the biased scores."""
    node = m.skip(choice, m.SHAPES)
    if m.is_op(node, "aten.masked_fill"):
        values, mask, fill = m.arguments(node)[:3]
        fill, keeps = constant(fill), False
    elif m.is_op(node, "aten.where"):
        mask, values, other = m.arguments(node)[:3]
        fill, keeps = constant(other), True
        if fill is None:
            values, fill, keeps = other, constant(values), False
    else:
        return NO_GROUPS, node
    if fill is None:
        m.refuse(node, "masked groups must be filled with a literal")
    if not isinstance(values, Node) or not isinstance(mask, Node):
        m.refuse(node, "the group mask must select between scores and a literal")
    biased = m.skip(values, m.SHAPES)
    experts = m.shape(m.skip(biased, m.SHAPES))[-1]
    count, top_groups = _mask(mask, values, biased, experts, keeps)
    return (NO_GROUPS if count == top_groups else Groups(count, top_groups, float(fill))), biased


def constant(value: object) -> m.Number | None:
    """A literal, or the literal that a constant tensor is filled with."""
    if isinstance(value, Node) and m.op_name(value) in _FULLS:
        filled, value = value, m.number(m.argument(value, _FULLS[m.op_name(value)]))
        whole = value is None or int(m.dtype(filled).is_floating_point) or value == int(value)
        note(filled, "self", "size")  # as its shape says
        return value if whole else None
    return m.number(value)


def _filled(value: object) -> m.Number | None:
    """As :func:`constant`, also of tensors of zeros or ones, with True as 1."""
    if m.is_op(value, *_ZEROS, *_ONES):
        note(value, *given(value))  # type: ignore[arg-type]  # as its shape says
        return int(m.is_op(value, *_ONES))
    return int(value) if isinstance(value, bool) else constant(value)


def _mask(mask: Node, values: Node, biased: Node, experts: object, keeps: bool) -> tuple[int, int]:
    """(groups, chosen groups); ``keeps``: the mask is True where scores stay."""
    node, inverted, widened = mask, False, None
    while not m.is_op(node, "aten.scatter", "aten.sum"):
        if m.is_op(node, "aten.bitwise_not", "aten.logical_not", "aten.eq"):
            inverted = not inverted
        elif m.is_op(node, "aten.expand", "aten.repeat_interleave"):
            m.require(widened is None, node, "the group mask must be widened once")
            widened = node
        if m.is_op(node, "aten.eq", "aten.ne", "aten.gt"):
            m.require(
                m.number(m.argument(node, 1)) == 0, node, "the group mask must be compared with 0"
            )
        elif not m.is_op(node, *_ABOVE_MASK):
            m.refuse(node, "the group mask must be built by scatter or one_hot")
        elif m.is_op(node, *m.CASTS):
            note(node, "dtype", "other")  # 0 and 1 are what they are in every dtype
        node = m.operand(node, 0)
    count, top_groups, drops = _scattered(node, biased)
    m.require(
        (inverted is not drops) is not keeps,
        mask,
        "the best groups must be kept and the others filled",
    )
    if not isinstance(experts, int) or experts % count:
        m.refuse(biased, "the groups must divide the experts")
    if count != top_groups:
        members = experts // count
        spread = _ends(mask, count, 1) and _ends(values, count, members)
        m.require(
            spread if widened is None else _widens(widened, count, members),
            widened or mask,
            "the group mask must be widened to contiguous groups of experts",
        )
    return count, top_groups


_ABOVE_MASK = (
    *m.SHAPES,
    *m.CASTS,
    "aten.bitwise_not",
    "aten.logical_not",
    "aten.expand",
    "aten.repeat_interleave",
)


def _widens(node: Node, count: int, members: int) -> bool:
    """Whether [tokens, groups] becomes [tokens, groups, members], each group's value repeated."""
    source = m.operand(node, 0)
    if m.is_op(node, "aten.repeat_interleave"):
        axis = m.argument(node, 2, "dim")
        repeats = m.number(m.argument(node, 1))
        return repeats == members and m.last_axis(source, axis) and _ends(source, count)
    return _ends(source, count, 1) and _ends(node, count, members)


def _ends(node: Node, *sizes: int) -> bool:
    dimensions = m.shape(node)
    return len(dimensions) == len(sizes) + 1 and tuple(dimensions[1:]) == sizes


def _scattered(node: Node, biased: Node) -> tuple[int, int, bool]:
    """(groups, chosen groups, whether the mask is 0 at the chosen ones and 1 elsewhere)."""
    index, drops = _one_hot(node) if m.is_op(node, "aten.sum") else _written(node)
    item = m.expect_op(index, node, "getitem")
    best = m.expect_op(m.argument(item, 0), node, "aten.topk")
    m.require(m.argument(item, 1) == 1, item, "the group mask must be made of top-k's indices")
    scores = m.operand(best, 0)
    top_groups, count = m.argument(best, 1, "k"), m.shape(scores)[-1]
    if not isinstance(top_groups, int) or not isinstance(count, int):
        m.refuse(best, "the numbers of groups must be literals")
    _require_largest_last(best)
    _require_two_best(scores, biased, count)
    sizes = m.shape(node)
    m.require(
        len(sizes) == 2 and sizes[1] == count, node, "the group mask must have one value a group"
    )
    return count, top_groups, drops


def _written(scatter: Node) -> tuple[object, bool]:
    """(index, drops) of a constant scattered over its opposite."""
    start, axis, index, value = m.arguments(scatter)[:4]
    outside, inside = _filled(start), _filled(value)
    if outside not in (0, 1):
        m.refuse(scatter, "the group mask must start at 0 or at 1")
    opposite = 0 if outside else 1
    m.require(
        inside == opposite and m.last_axis(scatter, axis),
        scatter,
        f"the group mask must be {opposite} at the chosen groups",
    )
    return index, outside == 1


def _one_hot(total: Node) -> tuple[object, bool]:
    """(index, False) of the sum of one_hot over the chosen groups."""
    hot = m.expect_op(m.argument(total, 0), total, "aten.one_hot")
    m.require(
        m.argument(total, 1, "dim") in ([1], [-2]) and len(m.shape(hot)) == 3,
        total,
        "one_hot must be summed over the chosen groups",
    )
    m.argument(hot, 1, "num_classes")  # as the shape of the mask says
    m.dtype(total)
    return m.argument(hot, 0), False


def _require_two_best(scores: Node, biased: Node, count: int) -> None:
    """A group's score is the sum of its two best biased scores."""
    reason = "the score of a group must be the sum of its two best scores"
    m.require(m.is_op(scores, "aten.sum"), scores, reason)
    item = m.expect_op(m.argument(scores, 0), scores, "getitem")
    best = m.expect_op(m.argument(item, 0), item, "aten.topk")
    m.require(m.argument(item, 1) == 0 and m.argument(best, 1, "k") == 2, best, reason)
    m.argument(scores, 2, "keepdim")  # as the shape of the groups says
    m.require(m.last_axis(item, m.argument(scores, 1, "dim")), scores, reason)
    _require_largest_last(best)
    by_group = m.operand(best, 0)
    m.require(
        m.skip(by_group, m.SHAPES) is biased, best, "groups must be chosen by the biased scores"
    )
    members = m.shape(by_group)[-1]
    m.require(_ends(by_group, count, int(members)), best, "groups must be contiguous experts")


def _require_largest_last(topk: Node) -> None:
    holds = bool(m.argument(topk, 3, "largest", True))
    m.argument(topk, 4, "sorted")  # a set of groups, or a sum of two
    last = m.last_axis(m.operand(topk, 0), m.argument(topk, 2, "dim", -1))
    m.require(holds and last, topk, "top-k must take the largest of the last dimension")

"""How a model may be dealt to cards."""

from __future__ import annotations

from dataclasses import dataclass

from glmc.errors import UsageError


@dataclass(frozen=True)
class Placement:
    """``replicas`` groups of ``ranks`` cards, each with a whole model and its part of the
    sequences; with ``expert_parallel`` each card has some of the experts whole."""

    ranks: int
    expert_parallel: bool
    replicas: int

    def __str__(self) -> str:
        name = f"TP{self.ranks}" + (" EP" if self.expert_parallel else "")
        return name if self.replicas == 1 else f"{self.replicas} x {name}"


def placements(
    cards: int, tensor_parallel: int | None, expert_parallel: bool, moe: bool
) -> tuple[Placement, ...]:
    """Those to look at: what is asked for, or each power of two that the cards can be cut into,
    with the experts cut and dealt. Raises UsageError for more ranks than cards, and for experts of
    a model that has none."""
    if cards < 1:
        raise UsageError("a model needs a card", found=f"--cards {cards}", remedy="--cards 8")
    if expert_parallel and not moe:
        raise UsageError("the model has no experts", found="--expert-parallel")
    if tensor_parallel is not None:
        if not 1 <= tensor_parallel <= cards:
            raise UsageError(
                "a model is dealt to the cards that there are",
                expected=f"1 to {cards}",
                found=f"--tensor-parallel {tensor_parallel}",
                remedy=f"--cards {tensor_parallel}, or fewer ranks",
            )
        return (Placement(tensor_parallel, expert_parallel, cards // tensor_parallel),)
    found = []
    for power in range(cards.bit_length()):
        ranks = 1 << power
        whole = (False, True) if moe and ranks > 1 and not expert_parallel else (expert_parallel,)
        found += [Placement(ranks, each and ranks > 1, cards // ranks) for each in whole]
    return tuple(found)

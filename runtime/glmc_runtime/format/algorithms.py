"""The all-reduce algorithms: what each costs and in which order it adds, as data.

An order of sums is a numerics class. Algorithms of one class give the same bits for the same
messages, so a choice among them is a choice of speed alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

TREE = "tree"
RING = "ring"
LIBRARY = "library"
ANY_ORDER = "any"
"""Of a table that mixes classes: its bits depend on the message's size."""


@dataclass(frozen=True)
class NumericsClass:
    """An order in which the messages of all ranks are added.

    ``of_place``: whether it differs from element to element by its place in the message, so that
    other tokens in the batch change a token's sums. ``of_ranks``: whether the sums change with the
    number of ranks where each rank of fewer has added a subtree beforehand. None: not known.
    """

    name: str
    order: str
    of_place: bool | None
    of_ranks: bool | None


@dataclass(frozen=True)
class Algorithm:
    """An all-reduce by name. ``one_host``: it needs the memory of all ranks in one host.

    ``messages`` and ``volume`` are the textbook cost over a power of two of ranks: how many
    messages follow each other, and how many times its message's bytes a rank sends.
    """

    name: str
    numerics: str
    summary: str
    one_host: bool = False

    def messages(self, ranks: int) -> int:
        doublings = (ranks - 1).bit_length()
        return {
            "butterfly": doublings,
            "halving_doubling": 2 * doublings,
            "one_shot": 1,
            "two_shot": 2,
        }.get(self.name, 2 * (ranks - 1))

    def volume(self, ranks: int) -> float:
        halves = 2 * (ranks - 1) / ranks
        return {
            "butterfly": float((ranks - 1).bit_length()),
            "one_shot": float(ranks - 1),
        }.get(self.name, halves)


NUMERICS: Mapping[str, NumericsClass] = MappingProxyType(
    {
        one.name: one
        for one in (
            NumericsClass(
                TREE,
                "pairs of neighbours, then pairs of pairs; surplus ranks beyond a power of two are "
                "added to the first ones beforehand",
                of_place=False,
                of_ranks=False,
            ),
            NumericsClass(
                RING,
                "around the ring, from a rank that depends on the chunk",
                of_place=True,
                of_ranks=True,
            ),
            NumericsClass(LIBRARY, "the library's, which it does not declare", None, None),
        )
    }
)
ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {
        one.name: one
        for one in (
            Algorithm("library", LIBRARY, "torch.distributed's own all-reduce"),
            Algorithm("butterfly", TREE, "recursive doubling: whole messages between pairs"),
            Algorithm(
                "halving_doubling",
                TREE,
                "reduce-scatter by halving, all-gather by doubling, on the butterfly's tree",
            ),
            Algorithm(
                "one_shot",
                TREE,
                "each rank adds the messages of all ranks in shared memory",
                one_host=True,
            ),
            Algorithm(
                "two_shot",
                TREE,
                "each rank adds its share of the messages of all ranks in shared memory",
                one_host=True,
            ),
            Algorithm("ring", RING, "reduce-scatter and all-gather around a ring"),
        )
    }
)
DTYPES = ("float32", "bfloat16", "float16")
"""Of messages. Each sum of two is rounded to the message's dtype."""


def of_class(numerics: str) -> tuple[str, ...]:
    """The names of the algorithms that a table of this class may name."""
    return tuple(name for name, one in ALGORITHMS.items() if numerics in (ANY_ORDER, one.numerics))

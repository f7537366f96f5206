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
RANK_ORDER = "rank_order"
LIBRARY = "library"
ANY_ORDER = "any"
"""Of a table that mixes classes: its bits depend on the message's size."""
MESSAGES, MEMORY, PEERS = "messages", "memory", "peers"
"""Media: messages of ``torch.distributed``, host memory that the ranks of one host share, and
memory of their cards that kernels of all ranks read."""


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
class Link:
    """What a step costs on a medium: ``latency`` in microseconds, and bytes a microsecond."""

    medium: str
    latency: float
    bandwidth: float


@dataclass(frozen=True)
class Algorithm:
    """An all-reduce by name: its numerics class, and the medium that it goes over."""

    name: str
    numerics: str
    medium: str
    summary: str

    def steps(self, ranks: int) -> int:
        """How many messages follow each other, or how often all ranks meet in memory."""
        if self.medium in (MEMORY, PEERS):
            return 2 if self.name.endswith("two_shot") else 1
        if self.name in ("butterfly", "halving_doubling"):
            doublings, surplus = ranks.bit_length() - 1, ranks & (ranks - 1)
            return doublings * (2 if self.name == "halving_doubling" else 1) + 2 * bool(surplus)
        return 2 * (ranks - 1)

    def volume(self, ranks: int) -> float:
        """How often a rank sends the bytes of its message; in memory, copies or adds them; of
        peers, reads them."""
        share = (ranks - 1) / ranks
        if self.medium == PEERS:
            return 2 * share if self.name.endswith("two_shot") else float(ranks - 1)
        if self.medium == MEMORY:
            return float(ranks) if self.name == "one_shot" else 2 + share
        core = 1 << (ranks.bit_length() - 1)
        surplus = 2.0 if core < ranks else 0.0
        if self.name == "butterfly":
            return core.bit_length() - 1 + surplus
        return 2 * (core - 1) / core + surplus if self.name == "halving_doubling" else 2 * share

    def predicted(self, ranks: int, size: int, link: Link) -> float:
        """Microseconds by the textbook: steps and bytes, of which nothing overlaps."""
        return self.steps(ranks) * link.latency + self.volume(ranks) * size / link.bandwidth


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
            NumericsClass(
                RANK_ORDER,
                "in the order of the ranks, in float32, rounded once",
                of_place=False,
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
            Algorithm("library", LIBRARY, MESSAGES, "torch.distributed's own all-reduce"),
            Algorithm("butterfly", TREE, MESSAGES, "recursive doubling: pairs swap whole sums"),
            Algorithm(
                "halving_doubling",
                TREE,
                MESSAGES,
                "reduce-scatter by halving, all-gather by doubling, on the butterfly's tree",
            ),
            Algorithm(
                "one_shot",
                TREE,
                MEMORY,
                "each rank adds the messages of all ranks",
            ),
            Algorithm(
                "two_shot",
                TREE,
                MEMORY,
                "each rank adds its share of the messages of all ranks, and reads the others'",
            ),
            Algorithm("ring", RING, MESSAGES, "reduce-scatter and all-gather around a ring"),
            Algorithm(
                "peer_one_shot",
                RANK_ORDER,
                PEERS,
                "a kernel of each rank adds the messages of all ranks",
            ),
            Algorithm(
                "peer_two_shot",
                RANK_ORDER,
                PEERS,
                "a kernel of each rank adds its share of all messages, and reads the others'",
            ),
        )
    }
)
DTYPES = ("float32", "bfloat16", "float16")
"""Of messages. Each sum of two is rounded to the message's dtype, but in the order of the ranks."""


def of_class(numerics: str) -> tuple[str, ...]:
    """The names of the algorithms that a table of this class may name."""
    return tuple(name for name, one in ALGORITHMS.items() if numerics in (ANY_ORDER, one.numerics))


def on_cards(name: str) -> bool:
    """Whether a card takes the algorithm from a table: kernels over the memory of peers, and the
    library, to which all others are left there."""
    return name == LIBRARY or ALGORITHMS[name].medium == PEERS

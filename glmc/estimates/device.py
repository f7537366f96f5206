"""A device as the time model knows it: numbers, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MEASURED, THIRD_PARTY, ASSUMED = "measured", "third-party", "assumed"
PROVENANCES = (MEASURED, THIRD_PARTY, ASSUMED)


@dataclass(frozen=True)
class Number:
    """A value, where it comes from in words, and whether we measured it, somebody else did, or
    nobody."""

    value: float
    source: str
    kind: str


@dataclass(frozen=True)
class Launch:
    """Seconds of a launch: ``eager``, the host's for a call or a device graph; ``graph``, the
    device's from one kernel of a graph to the next."""

    eager: Number
    graph: Number


@dataclass(frozen=True)
class Links:
    """Between the cards of a host: seconds of one message (``alpha``) and of one of its bytes
    (``beta``), in each direction at once."""

    topology: str
    alpha: Number
    beta: Number


@dataclass(frozen=True)
class Band:
    """Messages of less than ``below`` bytes, all where it is None, take an algorithm."""

    below: int | None
    algorithm: str


@dataclass(frozen=True)
class Calls:
    """Constants of a kind of call: seconds beside the launch, and how often the time of a plain
    read and of a large product its bytes and operations take."""

    seconds: Number
    read: Number
    multiply: Number


@dataclass(frozen=True)
class Device:
    """``memory`` in bytes of a card, ``cards`` of one host, ``read`` in bytes a second, ``product``
    in operations a second by dtype. ``overlap``: see :func:`glmc.estimates.seconds.call_seconds`.
    ``calls`` are by kind of node (:data:`glmc.estimates.costs.KINDS`).
    """

    name: str
    title: str
    target: str
    cards: int
    memory: Number
    read: Number
    product: Mapping[str, Number]
    launch: Launch
    links: Links
    collectives: tuple[Band, ...]
    overlap: Number
    calls: Mapping[str, Calls]

    def numbers(self) -> Mapping[str, Number]:
        """All numbers by their path in the file."""
        found = {"memory": self.memory, "read": self.read, "overlap": self.overlap}
        found |= {f"product.{dtype}": number for dtype, number in self.product.items()}
        found |= {f"launch.{name}": getattr(self.launch, name) for name in ("eager", "graph")}
        found |= {f"links.{name}": getattr(self.links, name) for name in ("alpha", "beta")}
        for kind, calls in self.calls.items():
            found |= {f"calls.{kind}.{name}": number for name, number in vars(calls).items()}
        return found

    @property
    def third_party(self) -> bool:
        """Whether what a card reads or multiplies was measured by somebody else."""
        return any(each.kind == THIRD_PARTY for each in (self.read, *self.product.values()))

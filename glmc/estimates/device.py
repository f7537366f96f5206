"""A device as the time model knows it: numbers, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

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
    device's from one kernel of a graph to the next. ``step``: the host's for a step, before the
    device begins and after it has ended."""

    eager: Number
    graph: Number
    step: Number


@dataclass(frozen=True)
class Link:
    """Seconds of one step of an algorithm over a medium (``alpha``), and of one of its bytes, in
    each direction at once (``beta``)."""

    alpha: Number
    beta: Number


@dataclass(frozen=True)
class Library:
    """The library's all-reduce: seconds of a few bytes, ``start`` and ``doubling`` for each time
    that the ranks double, and ``beta`` of each byte that a rank sends, in each direction at once.
    """

    start: Number
    doubling: Number
    beta: Number


@dataclass(frozen=True)
class Links:
    """Between the cards of a host: ``messages``, and ``memory`` where they share some. What is
    known of the library's own all-reduce; None: it is taken for a ring of messages. ``step``:
    seconds in which a step gets to all ranks and its result comes back; None: nothing is known."""

    topology: str
    messages: Link
    memory: Link | None
    library: Library | None
    step: Number | None = None


_NONE = SimpleNamespace()


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
    overlap: Number
    calls: Mapping[str, Calls]

    def numbers(self) -> Mapping[str, Number]:
        """All numbers by their path in the file."""
        found = {"memory": self.memory, "read": self.read, "overlap": self.overlap}
        found |= {f"product.{dtype}": number for dtype, number in self.product.items()}
        found |= {
            f"launch.{name}": getattr(self.launch, name) for name in ("eager", "graph", "step")
        }
        for part in ("messages", "memory", "library"):
            known = getattr(self.links, part)
            found |= {f"links.{part}.{name}": each for name, each in vars(known or _NONE).items()}
        if self.links.step is not None:
            found["links.step"] = self.links.step
        for kind, calls in self.calls.items():
            found |= {f"calls.{kind}.{name}": number for name, number in vars(calls).items()}
        return found

    @property
    def third_party(self) -> bool:
        """Whether what a card reads or multiplies was measured by somebody else."""
        return any(each.kind == THIRD_PARTY for each in (self.read, *self.product.values()))

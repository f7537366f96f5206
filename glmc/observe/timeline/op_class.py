"""The kind of op that an event is, by kernel, launching op and module, in this order."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from glmc.observe.timeline.kernel_names import (
    COLLECTIVE,
    COPY,
    EXPERTS,
    KERNELS,
    MODULES,
    OPS,
    OTHER,
    Row,
)
from glmc.observe.timeline.table import Kind, TimelineEvent

_KINDS = {COPY: Kind.COPY, COLLECTIVE: Kind.COLLECTIVE}


def op_class(event: TimelineEvent) -> str:
    """One of ``OP_CLASSES``."""
    if event.op_class or event.kind is Kind.COLLECTIVE:
        return event.op_class or COLLECTIVE
    return class_of(event.name, event.op, event.module, planned=bool(event.node))


def kind_of(kernel: str) -> Kind:
    """What runs on a device under a name: a copy, a collective, or any other kernel."""
    return _KINDS.get(class_of(kernel), Kind.KERNEL)


@cache
def class_of(name: str, op: str = "", module: str = "", planned: bool = False) -> str:
    """What the tables of kernel_names.py say of a kernel's name, an op and a module.

    The op of a plan is asked before the function that computes it. What runs inside the module of
    the experts is theirs, whatever product or copy it is.
    """
    order = (op, OPS), (name, KERNELS)
    named = (first(text, rows) for text, rows in (order if planned else order[::-1]))
    found = next(filter(None, named), None)
    if found != COLLECTIVE and first(module, MODULES) == EXPERTS:
        return EXPERTS
    return found or first(module.rpartition("/")[2], MODULES) or OTHER


def first(text: str, rows: Iterable[Row]) -> str | None:
    """The class of the first row that knows a text."""
    return next((row.op_class for row in rows if text and row.pattern.search(text)), None)

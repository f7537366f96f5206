"""Kinds of ops by place, of kernels whose names say less than where they run.

A router's choice comes after a product that is a router's, too: a fused router has both in one
kernel. What runs between the products of q, k and v and attention is rope or writes the cache,
whatever a compiler has called it. A file of ours knows its ops and needs neither.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from glmc.observe.timeline.kernel_names import ATTENTION, LINEAR, OTHER, ROPE_CACHE, ROUTER
from glmc.observe.timeline.op_class import op_class
from glmc.observe.timeline.steps import work_by_step
from glmc.observe.timeline.table import Timeline, TimelineEvent


def with_places(timeline: Timeline) -> Timeline:
    """The timeline with such kinds, and how many a step has in its remarks."""
    if any(event.node for event in timeline.events):
        return timeline
    found: dict[int, str] = {}
    steps = work_by_step(timeline).values()
    for work in steps:
        streams: dict[str, list[TimelineEvent]] = defaultdict(list)
        for event in work:
            streams[event.lane].append(event)
        for stream in streams.values():
            found.update(_of_stream(stream))
    if not found:
        return timeline
    events = tuple(
        replace(event, op_class=found[id(event)]) if id(event) in found else event
        for event in timeline.events
    )
    remark = (
        f"{len(found) / len(steps):.0f} kernels a step have their kind by their place: products "
        f"before a router's choice, and what runs between products and attention"
    )
    facts = replace(timeline.facts, remarks=(*timeline.facts.remarks, remark))
    return replace(timeline, events=events, facts=facts)


def _of_stream(events: Sequence[TimelineEvent]) -> Mapping[int, str]:
    """The kind of each event that has one by its place, by the event's identity."""
    found: dict[int, str] = {}
    products: list[TimelineEvent] = []  # in a row, up to here
    unknown: list[TimelineEvent] = []  # since the last product
    after_product = False
    for event in events:
        kind = op_class(event)
        if kind == ROUTER:
            found |= {id(each): ROUTER for each in products}
        elif kind in (ROPE_CACHE, ATTENTION) and after_product:
            found |= {id(each): ROPE_CACHE for each in unknown}
        if kind == LINEAR:
            products.append(event)
            unknown, after_product = [], True
        else:
            products = []
            if kind == OTHER:
                unknown.append(event)
            elif kind != ROPE_CACHE:
                unknown, after_product = [], False
            else:
                unknown = []
    return found

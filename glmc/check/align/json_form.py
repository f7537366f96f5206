"""An alignment as plain data, for ``--json``.

``values`` are in order of execution, ``first`` is the place of the first divergence among them or
null. ``expected`` is A, the reference, and ``actual`` is B. A value has the fields of
:class:`~glmc.check.align.result.AlignedValue`: ``total``, ``own`` and ``inherited`` those of a
difference, with ``relative`` beside them; the last two are null where only two records were
compared. A number that is not known, or not finite, is null.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from glmc.check.align.by_node import by_node
from glmc.check.align.result import AlignedValue, Alignment, Difference
from glmc.observe.page.aligned import BY_NODE

SCHEMA_VERSION = 1


def alignment_to_json(alignment: Alignment) -> dict[str, Any]:
    """Plain data."""
    first = alignment.first
    sides = zip((alignment.expected, alignment.actual), alignment.facts, strict=True)
    expected, actual = ({"label": label, "facts": dict(facts)} for label, facts in sides)
    data = {
        "schema_version": SCHEMA_VERSION,
        "differs": first is not None,
        "emulated": alignment.emulated,
        "expected": expected,
        "actual": actual,
        "thresholds": alignment.thresholds,
        "remarks": list(alignment.remarks),
        "first": None if first is None else alignment.values.index(first),
        "values": [_value(value) for value in alignment.values],
        BY_NODE: by_node(alignment),
        "unpaired": {"expected": alignment.unpaired[0], "actual": alignment.unpaired[1]},
    }
    plain: dict[str, Any] = _plain(data)
    return plain


def _value(value: AlignedValue) -> dict[str, Any]:
    data = asdict(value)
    data["verdict"] = value.verdict.value
    for name in ("total", "own", "inherited"):
        part = getattr(value, name)
        if isinstance(part, Difference):
            data[name]["relative"] = part.relative
    return data


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(name): _plain(item) for name, item in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(item) for item in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data

"""Numbers of an engine's ``/metrics``."""

from __future__ import annotations

import re


def total(text: str, name: str, **labels: str) -> float:
    """The sum of the values of a metric, over those of its labels that are not given."""
    found = 0.0
    for line in text.splitlines():
        match = re.fullmatch(rf"{re.escape(name)}(?:\{{(.*)\}})? (\S+)", line)
        if match is None:
            continue
        has = dict(re.findall(r'(\w+)="([^"]*)"', match[1] or ""))
        if labels.items() <= has.items():
            found += float(match[2])
    return found

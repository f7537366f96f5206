"""What compiled plans have counted since a server's start, as flat numbers."""

from __future__ import annotations

from glmc_engines.core.counters import shared_counts


def counted() -> dict[str, int]:
    """``serves``, ``steps``, ``tokens``, and ``replays`` in all and by phase and bucket."""
    found: dict[str, int] = {"serves": 0, "steps": 0, "replays": 0}
    for count in shared_counts():
        found[count.name] = found.get(count.name, 0) + count.value
        if count.name == "replays":
            labels = dict(count.labels)
            found[f"{labels['phase']} {labels['bucket']}"] = count.value
    return found

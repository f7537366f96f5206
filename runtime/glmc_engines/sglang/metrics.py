"""Counts of a rank in the metrics that SGLang's server answers with.

SGLang collects what each of its processes writes through prometheus_client's files; so does a rank
here, where metrics are on.
"""

from __future__ import annotations

import os
from typing import Any

from glmc_engines.core.counters import HELP, Counters

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """Tells the counts of one rank on; does nothing where SGLang keeps no metrics."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._on = bool(os.environ.get(_FOLDER))
        self._families: dict[str, Any] = {}
        self._told: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
        self.publish()

    def publish(self) -> None:
        """Write what has changed since the last time."""
        if not self._on:
            return
        for count in self._counters.counts():
            key = (count.name, count.labels)
            told = self._told.get(key)
            if told == count.value:
                continue
            self._told[key] = count.value
            labels = {"rank": str(count.rank), **dict(count.labels)}
            metric = self._family(count.name, tuple(labels)).labels(**labels)
            if count.name == "serves":
                metric.set(count.value)
            else:
                metric.inc(count.value - (told or 0))

    def _family(self, name: str, labels: tuple[str, ...]) -> Any:
        family = self._families.get(name)
        if family is None:
            # Not before SGLang has named the folder, which prometheus_client reads once.
            from prometheus_client import Counter, Gauge

            text = HELP.get(name, name)
            family = (
                Gauge(f"glmc_{name}", text, labels, multiprocess_mode="max")
                if name == "serves"
                else Counter(f"glmc_{name}", text, labels)
            )
            self._families[name] = family
        return family

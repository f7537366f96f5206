"""Counts of all ranks in the metrics that vLLM's server answers with.

Nothing of vLLM or of the runtime is imported: it also says that neither could be used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from glmc_engines.core.counters import HELP, shared_counts


class Collector:
    """A collector of prometheus_client; it reads the counts anew for each answer."""

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families: dict[str, Any] = {}
        for count in shared_counts():
            kind = GaugeMetricFamily if count.name == "serves" else CounterMetricFamily
            family = families.get(count.name)
            if family is None:
                labels = ["rank", *(label for label, _ in count.labels)]
                text = HELP.get(count.name, count.name)
                family = families[count.name] = kind(f"glmc_{count.name}", text, labels=labels)
            family.add_metric([str(count.rank), *(text for _, text in count.labels)], count.value)
        yield from families.values()

    def describe(self) -> list[Any]:
        """Nothing: names are known when there are counts."""
        return []


def register_metrics() -> None:
    """Add the counts to the registries that vLLM's server answers with, once: that of this process,
    and where several processes answer, each that is made to gather their metrics."""
    from prometheus_client import REGISTRY, multiprocess

    known = multiprocess.MultiProcessCollector
    if getattr(known, "of_glmc", False):
        return

    class Gathered(known):  # type: ignore[misc, valid-type]
        of_glmc = True

        def __init__(self, registry: Any, *arguments: Any, **options: Any) -> None:
            super().__init__(registry, *arguments, **options)
            registry.register(Collector())

    multiprocess.MultiProcessCollector = Gathered
    REGISTRY.register(Collector())

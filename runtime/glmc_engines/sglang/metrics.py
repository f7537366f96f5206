"""Counts of a rank in the metrics that SGLang's server answers with.

SGLang collects what each of its processes writes through prometheus_client's files; so does a rank
here, where metrics are on. A thread writes, at most once in ``SECONDS``: a step has to say no more
than that there is something new.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable
from functools import cache
from typing import Any

from glmc_engines.core.counters import HELP, Count, Counters

_LOG = logging.getLogger("glmc.engines")
SECONDS = 1.0
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_LABELS = {
    "serves": ("rank", "target", "dtype", "origin"),
    "replays": ("rank", "phase", "bucket"),
}


class Metrics:
    """Tells the counts of one rank on; does nothing where SGLang keeps no metrics.

    Whoever changes counts holds ``lock``, so that those of one step are told together, and calls
    :meth:`changed` after it.
    """

    def __init__(self, counters: Counters) -> None:
        self.lock = threading.Lock()
        self._counters = counters
        self._on = bool(os.environ.get(_FOLDER))
        self._changed = threading.Event()
        self._told: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
        if self._on:
            self._tell(counters.counts())
            threading.Thread(target=self._go_on, name="glmc-metrics", daemon=True).start()

    def changed(self) -> None:
        """Counts are others than before: they are written within ``SECONDS``."""
        if self._on and not self._changed.is_set():
            self._changed.set()

    def _go_on(self) -> None:
        logged = False
        while True:
            self._changed.wait()
            self._changed.clear()
            with self.lock:
                counts = list(self._counters.counts())
            try:
                self._tell(counts)
            except Exception as error:  # noqa: BLE001 - a full disk: there may be room later
                self._changed.set()
                if not logged:
                    _LOG.warning(
                        "glmc can't write its counts to the metrics of SGLang, and tries again "
                        "every %g s: %r",
                        SECONDS,
                        error,
                    )
                logged = True
            time.sleep(SECONDS)

    def _tell(self, counts: Iterable[Count]) -> None:
        for count in counts:
            key = (count.name, count.labels)
            told = self._told.get(key)
            if told == count.value:
                continue
            labels = {"rank": str(count.rank), **dict(count.labels)}
            named = {label: labels.get(label, "") for label in _labels(count.name)}
            metric = _family(count.name).labels(**named)
            if count.name == "serves":
                metric.set(count.value)
            else:
                metric.inc(count.value - (told or 0))
            self._told[key] = count.value


def _labels(name: str) -> tuple[str, ...]:
    return _LABELS.get(name, ("rank",))


@cache
def _family(name: str) -> Any:
    """The metric of a name, of which a process may have one."""
    # Not before SGLang has named the folder, which prometheus_client reads once.
    from prometheus_client import Counter, Gauge

    text = HELP.get(name, name)
    if name == "serves":
        return Gauge(f"glmc_{name}", text, _labels(name), multiprocess_mode="max")
    return Counter(f"glmc_{name}", text, _labels(name))

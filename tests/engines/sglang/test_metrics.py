"""Counts of a rank in SGLang's metrics: one metric of a name in a process, written by a thread."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from glmc_engines.core.counters import Counters
from glmc_engines.sglang import metrics
from glmc_engines.sglang.metrics import Metrics


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, float]]:
    """What a server would answer with: samples by name, those of one name added up."""
    from prometheus_client import CollectorRegistry, multiprocess

    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))

    def samples() -> dict[str, float]:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        found: dict[str, float] = {}
        for family in registry.collect():
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    return samples


FOREIGN = """
from types import SimpleNamespace
from glmc_engines.sglang import plugin

models = [type(name, (), {"__module__": "sglang.srt.models"})() for name in ("Llama", "Eagle")]
for model in models:
    for _ in ("prefill", "decode"):
        assert not plugin._has_model_of_ours(SimpleNamespace(model=model))
"""


def test_a_model_of_the_engine_s_with_several_backends(
    tmp_path: Path, written: Callable[[], dict[str, float]]
) -> None:
    """Metrics are on, and a draft model has runners and backends of its own."""
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("glmc does not serve Llama") == 1
    assert written()["glmc_serves"] == 0


LOADED_TWICE = """
from glmc_engines.core.counters import Counters
from glmc_engines.sglang.metrics import Metrics
from types import SimpleNamespace
from glmc_engines.sglang import plugin

for dtype in ("float32", "bfloat16"):
    counters = Counters(0)
    counters.set("serves", 1, target="cpu", dtype=dtype, origin="named")
    Metrics(counters)
plugin._say_not_served("Llama")
"""


def test_models_of_both_kinds_in_one_process(written: Callable[[], dict[str, float]]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED_TWICE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert written()["glmc_serves"] == 2


class Told(list[dict[str, int]]):
    """Stands for prometheus_client: what was written, by name, each time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now: dict[str, int] = {}
        monkeypatch.setattr(metrics, "_family", self._family)

    def _family(self, name: str) -> SimpleNamespace:
        def inc(number: int) -> None:
            self.now[name] = self.now.get(name, 0) + number
            self.append(dict(self.now))

        return SimpleNamespace(labels=lambda **labels: SimpleNamespace(inc=inc, set=inc))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nowhere")
    monkeypatch.setattr(metrics, "SECONDS", 0.2)
    return Told(monkeypatch)


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_many_steps_are_written_a_few_times_and_the_last_is(told: Told) -> None:
    counters = Counters(0)
    written = Metrics(counters)
    begun = time.monotonic()
    for _ in range(1000):
        with written.lock:
            counters.add("steps")
        written.changed()
        time.sleep(0.0005)
    seconds = time.monotonic() - begun
    until(lambda: told.now.get("steps") == 1000)
    assert len(told) <= seconds / 0.2 + 2


def test_nothing_is_read_where_nothing_changes(told: Told) -> None:
    class Read(Counters):
        reads = 0

        def counts(self):  # type: ignore[no-untyped-def]
            Read.reads += 1
            return super().counts()

    written = Metrics(Read(0))
    before = Read.reads
    time.sleep(0.5)
    assert Read.reads == before
    written.changed()
    until(lambda: Read.reads == before + 1)


def test_a_step_is_told_whole(told: Told) -> None:
    counters = Counters(0)
    written = Metrics(counters)
    with written.lock:
        counters.add("steps")
        written.changed()
        time.sleep(0.1)
        assert "steps" not in told.now
        counters.add("replays", phase="decode", bucket="1")
    until(lambda: told.now == {"steps": 1, "replays": 1})


def test_a_full_disk_is_said_once_and_counts_are_written_later(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []
    lines: list[str] = []
    monkeypatch.setattr(metrics._LOG, "warning", lambda text, *of: lines.append(text % of))
    family = metrics._family

    def full(name: str) -> SimpleNamespace:
        tries.append(name)
        if len(tries) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return family(name)

    monkeypatch.setattr(metrics, "_family", full)
    counters = Counters(0)
    written = Metrics(counters)
    counters.add("steps", 2)
    written.changed()
    until(lambda: told.now == {"steps": 2})
    (line,) = lines
    assert len(tries) == 3 and "No space left on device" in line


def test_nothing_runs_where_metrics_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    monkeypatch.setattr(metrics, "_family", lambda name: pytest.fail(name))
    counters = Counters(0)
    written = Metrics(counters)
    counters.add("steps")
    written.changed()
    assert not written._changed.is_set()

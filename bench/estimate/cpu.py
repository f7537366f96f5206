"""What this machine reads, multiplies and calls, and its description for ``glmc estimate``.

The least of several measurements counts, since a machine may do other work meanwhile.
:mod:`bench.estimate.gloo` fits the constants and writes the description.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from glmc.estimates.costs import EXPERTS, KINDS
from glmc.estimates.device import ASSUMED, MEASURED

_BYTES = 1 << 27
_SIDE = 512
_RUNS = 60
_CALLS = 200


def least(work: Callable[[], object], repeats: int = 1) -> float:
    """Seconds of the fastest run, one of ``repeats`` in it."""
    work()
    times = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        times.append((time.perf_counter() - started) / repeats)
    return min(times)


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "a processor without a name"


def read_rate() -> float:
    """Bytes a second of a plain sum."""
    data = torch.ones(_BYTES // 4)
    return _BYTES / least(data.sum)


def product_rate() -> float:
    """Operations a second of a product of float32 of side 512: what ATen does with other dtypes is
    not what a plan of ours calls."""
    left = torch.randn(_SIDE, _SIDE)
    return 2 * _SIDE**3 / least(lambda: left @ left)


def call_seconds() -> float:
    """Seconds of a small call in place."""
    data = torch.ones(8)
    return least(lambda: data.add_(1.0), _CALLS)


def memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True)
class Measured:
    """``read`` in bytes and ``product`` in operations a second, ``call`` in seconds, and where."""

    read: float
    product: float
    call: float
    where: str


def measured() -> Measured:
    """What this process gets of the machine, with the threads that torch has in it."""
    threads, load = torch.get_num_threads(), f"{os.getloadavg()[0]:.0f} others waiting"
    where = f"{processor()}, {threads} threads, {load}, {date.today()}, torch {torch.__version__}"
    return Measured(read_rate(), product_rate(), call_seconds(), where)


def link_numbers(path: Path, source: str) -> dict[str, Any]:
    """The links of a measured table of collectives."""
    entry = json.loads(path.read_text(encoding="utf-8"))["entries"][0]
    found = {}
    for link in entry["links"]:
        found[link["medium"]] = {
            "alpha": {"value": link["latency"] * 1e-6, "kind": MEASURED, "source": source},
            "beta": {"value": 1e-6 / link["bandwidth"], "kind": MEASURED, "source": source},
        }
    curve = next(each for each in entry["curves"] if each["algorithm"] == "library")
    small, large = (curve["microseconds"][place] * 1e-6 for place in (0, -1))
    moved = curve["sizes"][-1] - curve["sizes"][0]
    values = {"start": 0.0, "doubling": small, "beta": max(large - small, 1e-9) / moved}
    found["library"] = {
        name: {"value": value, "kind": MEASURED, "source": f"{source}, the library's curve"}
        for name, value in values.items()
    }
    return found


@dataclass(frozen=True)
class Constants:
    """Constants of the time model, fitted to steps as ``source`` says: ``read``, ``experts`` and
    ``multiply`` times those of a plain read, the last of a large product; ``step`` seconds between
    two steps, ``told`` where ranks are told of a step."""

    read: float = 1.0
    experts: float = 1.0
    multiply: float = 1.0
    step: float = 0.0
    told: float = 0.0
    source: str = "nothing was fitted yet"


UNFITTED = Constants()


def described(links: Path, rates: Measured, fitted: Constants = UNFITTED) -> dict[str, Any]:
    """The description of a machine that has these rates, a core for each rank."""
    where = rates.where
    fit: Mapping[str, str] = {
        "source": fitted.source,
        "kind": ASSUMED if fitted == UNFITTED else MEASURED,
    }

    def number(value: float, source: str, kind: str = MEASURED) -> dict[str, Any]:
        return {"value": float(f"{value:.3g}"), "kind": kind, "source": source}

    calls = {
        kind: {
            "seconds": number(0.0, "calls are measured: launch.graph", ASSUMED),
            "read": number(fitted.experts if kind == EXPERTS else fitted.read, **fit),
            "multiply": number(fitted.multiply, **fit),
        }
        for kind in KINDS
    }
    product = {"float32": number(rates.product, f"{where}: a product of side {_SIDE}")}
    return {
        "name": "cpu",
        "title": ", ".join(where.split(", ")[:2]),
        "target": "cpu",
        "cards": 2,
        "memory": number(memory(), f"{where}: the system's pages"),
        "read": number(rates.read, f"{where}: a sum of 128 MiB"),
        "product": product,
        "launch": {
            "eager": number(0.0, "the host computes itself: its calls are in graph", ASSUMED),
            "graph": number(rates.call, f"{where}: an addition of eight numbers in place"),
            "step": number(fitted.step, **fit),
        },
        "links": {
            "topology": "processes of one host, a core each",
            "step": number(fitted.told, **fit),
            **link_numbers(links, f"{where}: glmc-runtime tune-collectives --ranks 2"),
        },
        "overlap": number(1.0, "a core reads, then it multiplies", ASSUMED),
        "calls": calls,
    }

"""Constants of a CPU, fitted to steps that were measured on it.

The model of time is linear where nothing overlaps: a step takes its calls, reads, products and
collectives one after the other, and what is between two steps. Least squares over relative errors,
of constants that may not be less than a plain read, a large product and no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

import numpy as np

from bench.estimate.cpu import Constants
from glmc.estimates.costs import COLLECTIVE, EXPERTS
from glmc.estimates.device import Device
from glmc.estimates.seconds import product_rate
from glmc.estimates.step_estimate import EstimatedStep

DTYPE = "float32"
NAMES = tuple(field.name for field in fields(Constants) if field.name != "source")
_LEAST = Constants()


@dataclass(frozen=True)
class Sample:
    """A measured step: its ``seconds``, those that it is predicted to take whatever the constants
    are (``known``), and how often each constant counts in it."""

    seconds: float
    known: float
    factors: tuple[float, ...]


def sample(device: Device, ranks: int, step: EstimatedStep, seconds: float) -> Sample:
    """A step that took so many seconds, of a device whose constants are unknown."""
    own = [each for each in step.lines if each.line.cost.kind != COLLECTIVE]
    launches = sum(each.line.launches for each in own)
    collectives = sum(each.total for each in step.collectives)
    moved = {True: 0.0, False: 0.0}
    for each in own:
        bytes_ = each.line.count * each.line.cost.bytes
        moved[each.line.cost.kind == EXPERTS] += bytes_ / device.read.value
    flops = sum(each.line.count * each.line.cost.flops for each in own)
    computed = flops / product_rate(device, DTYPE)
    known = launches * device.launch.graph.value + collectives
    between = dict.fromkeys(NAMES, 0.0) | {"step" if ranks == 1 else "told": 1.0}
    reads = {"read": moved[False], "experts": moved[True]}
    factors = {**between, **reads, "multiply": computed}
    return Sample(seconds, known, tuple(factors[name] for name in NAMES))


def constants(samples: Sequence[Sample], source: str) -> Constants:
    """Those that fit best: of each choice of constants that stand at their least the others by
    least squares, as far as these are not below theirs."""
    least = np.array([getattr(_LEAST, name) for name in NAMES])
    scale = np.array([1 / each.seconds for each in samples])
    factors = np.array([each.factors for each in samples]) * scale[:, None]
    wanted = (np.array([each.seconds - each.known for each in samples])) * scale - factors @ least
    best: tuple[float, Any] = (float(wanted @ wanted), np.zeros(len(NAMES)))
    for chosen in product((False, True), repeat=len(NAMES)):
        columns = [place for place, free in enumerate(chosen) if free]
        if not columns:
            continue
        values = np.zeros(len(NAMES))
        values[columns] = np.linalg.lstsq(factors[:, columns], wanted, rcond=None)[0]
        left = wanted - factors @ values
        if (values >= 0).all() and left @ left < best[0]:
            best = float(left @ left), values
    found = (least + best[1]).tolist()
    return Constants(**dict(zip(NAMES, found, strict=True)), source=source)

"""Fit the constants of the time model to measured rows and write them into a device's description.

    python -m bench.estimate.fit [--write glmc/estimates/devices/h200.yaml]

Least squares over relative errors, by Levenberg and Marquardt, with the bounds that a plain read
and a large product set. Only rows of models that may be fitted count: steps whole, calls with their
share of a step. All rows are then printed beside their predictions.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bench.estimate.rows import Row, measured_calls, measured_steps, stored_costs
from glmc.estimates.costs import KINDS, OTHER
from glmc.estimates.device import ASSUMED, MEASURED, Calls, Device, Number
from glmc.estimates.device_file import parse_device
from glmc.estimates.lines import Line
from glmc.estimates.seconds import line_seconds

DEVICE = Path("glmc/estimates/devices/h200.yaml")
DTYPE = "bfloat16"
_CALL_WEIGHT = 0.3
"""Of a row of calls that make up a tenth of their step or more: a step's counts 1."""
_START = {"seconds": 3.0, "read": 1.05, "multiply": 1.2}
_LEAST = {"seconds": 0.0, "read": 1.0, "multiply": 1.0}
_ROUNDS = 60
NAMES = [(kind, name) for kind in KINDS for name in _START if (kind, name) != (OTHER, "multiply")]

Data = list[tuple[Row, tuple[Line, ...], float]]


def with_constants(device: Device, values: Sequence[float]) -> Device:
    """The device with these constants: those of :data:`NAMES`, seconds in us, then the overlap."""
    from dataclasses import replace

    found = dict(zip(NAMES, values, strict=False))

    def number(kind: str, name: str) -> Number:
        value = found.get((kind, name), 1.0) * (1e-6 if name == "seconds" else 1.0)
        return Number(value, "fitted", MEASURED)

    calls = {kind: Calls(*(number(kind, name) for name in _START)) for kind in KINDS}
    return replace(device, calls=calls, overlap=Number(values[-1], "fitted", MEASURED))


def predicted_ms(device: Device, lines: tuple[Line, ...]) -> float:
    return 1e3 * sum(line_seconds(device, DTYPE, line) for line in lines)


def training_data() -> Data:
    costs, steps = stored_costs(), [row for row in measured_steps() if row.fit]
    times = {row.key: row.ms for row in steps}
    data = [(row, row.lines(costs), 1.0) for row in steps]
    for row in measured_calls():
        share = row.calls * row.ms / times[row.key]
        data.append((row, row.lines(costs), _CALL_WEIGHT * min(1.0, 10 * share) ** 0.5))
    return data


def fitted(device: Device, data: Data) -> Any:
    """The constants of least squares."""
    least = np.array([*(_LEAST[name] for _, name in NAMES), 1.0])
    values = np.array([*(_START[name] for _, name in NAMES), 1.5])

    def errors(values: Any) -> Any:
        made = with_constants(device, values)
        return np.array([w * (predicted_ms(made, lines) / row.ms - 1) for row, lines, w in data])

    here, damping = errors(values), 1e-2
    for _ in range(_ROUNDS):
        slopes = np.empty((len(here), len(values)))
        for place, value in enumerate(values):
            moved, size = values.copy(), max(1e-4, abs(value) * 1e-4)
            moved[place] += size
            slopes[:, place] = (errors(moved) - here) / size
        tried = np.maximum(values + _step(slopes, here, damping, values <= least + 1e-9), least)
        there = errors(tried)
        if there @ there < here @ here:
            done = here @ here - there @ there < 1e-10
            values, here, damping = tried, there, damping / 3
            if done:
                break
        else:
            damping *= 4
    return values


def _step(slopes: Any, errors: Any, damping: float, bound: Any) -> Any:
    """A damped step of Gauss and Newton that does not leave a bound which it stands at."""
    free = list(range(slopes.shape[1]))
    while True:
        part = slopes[:, free]
        square = part.T @ part
        step = np.zeros(slopes.shape[1])
        step[free] = -np.linalg.solve(
            square + damping * np.diag(np.diag(square) + 1e-12), part.T @ errors
        )
        outward = [place for place in free if bound[place] and step[place] < 0]
        if not outward:
            return step
        free = [place for place in free if place not in outward]


def description(data: dict[str, Any], values: Sequence[float], source: str) -> dict[str, Any]:
    """A description with the fitted constants, each with where it is from."""
    found = dict(zip(NAMES, (float(value) for value in values), strict=False))

    def entry(value: float, kind: str = MEASURED, where: str = source) -> dict[str, Any]:
        return {"value": value, "kind": kind, "source": where}

    calls = {}
    for kind in KINDS:
        calls[kind] = {
            "seconds": entry(round(found[kind, "seconds"] * 1e-6, 9)),
            "read": entry(round(found[kind, "read"], 3)),
            "multiply": entry(round(found[kind, "multiply"], 3))
            if (kind, "multiply") in found
            else entry(1.0, ASSUMED, "these calls have no products"),
        }
    return {**data, "overlap": entry(round(float(values[-1]), 3)), "calls": calls}


def table(device: Device) -> list[tuple[str, float, float, float, bool]]:
    """Each measured step: its key, measured and predicted milliseconds, error, fitted to or not."""
    costs = stored_costs()
    rows = []
    for row in measured_steps():
        made = predicted_ms(device, row.lines(costs))
        rows.append((row.key, row.ms, made, made / row.ms - 1, row.fit))
    return rows


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, default=None)
    options = parser.parse_args(words)
    data = yaml.safe_load((options.write or DEVICE).read_text(encoding="utf-8"))
    if not data["calls"]:  # a first fit
        data = description(data, [*(_START[name] for _, name in NAMES), 1.5], "not fitted")
    base = parse_device(yaml.safe_dump(data).encode(), str(DEVICE))
    rows = training_data()
    values = fitted(base, rows)
    steps = sum(not row.kernel for row, _, _ in rows)
    source = (
        f"fitted by bench.estimate.fit to {steps} steps and {len(rows) - steps} kinds of calls of "
        "GLM-4-9B and 12 layers of GLM-4.5-Air, bench/estimate/h200_rows.yaml"
    )
    made = description(data, values, source)
    text = yaml.safe_dump(made, sort_keys=False, width=110, allow_unicode=True)
    device = parse_device(text.encode(), str(DEVICE))
    for (kind, name), value in zip(NAMES, values, strict=False):
        print(f"{kind} {name}: {value:.3f}")
    print(f"overlap: {values[-1]:.3f}")
    for key, ms, prediction, error, fit in table(device):
        print(
            f"{key:24} {ms:8.2f} {prediction:8.2f} {error:+7.1%} {'fitted' if fit else 'held out'}"
        )
    if options.write:
        options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""The time model against what was measured on the H200: models that it was not fitted to."""

from __future__ import annotations

import pytest

from bench.estimate.fit import description, fitted, table, training_data
from bench.estimate.rows import measured_steps, plans_of, stored_costs
from glmc.estimates.device_file import read_device
from glmc.estimates.lines import step_lines

MOST = 0.15
_MODELS = ("9b", "air", "32b", "glm-4.7")


def test_every_measured_step_is_within_the_bound() -> None:
    rows = table(read_device("h200"))
    assert {key.split()[0] for key, _, _, _, fit in rows if not fit} == {"32b", "glm-4.7"}
    assert len(rows) == 42
    assert [row for row in rows if abs(row[3]) > MOST] == []


def test_the_constants_of_the_package_are_those_of_the_fit() -> None:
    device = read_device("h200")
    values = fitted(device, training_data())
    made = description({}, values, "")["calls"]
    for kind, calls in device.calls.items():
        for name, number in vars(calls).items():
            assert number.value == pytest.approx(made[kind][name]["value"], rel=0.01, abs=2e-8)


def test_the_bound_can_be_missed() -> None:
    """Without what the fit gave, by the floors of bytes and operations alone, it would be."""
    device, costs = read_device("h200"), stored_costs()
    floors = []
    for row in measured_steps():
        floor = sum(
            line.count
            * max(
                line.cost.bytes / device.read.value,
                line.cost.flops / device.product["bfloat16"].value,
            )
            for line in row.lines(costs)
        )
        floors.append(floor * 1e3 / row.ms - 1)
    assert sum(abs(error) > MOST for error in floors) > len(floors) / 2
    assert max(floors) < 0.02  # nothing was measured below its floor


@pytest.mark.slow
@pytest.mark.parametrize("model", _MODELS)
def test_the_stored_floors_are_those_of_the_plans(model: str) -> None:
    plans, costs = plans_of(model), stored_costs()
    rows = {row.key: row for row in measured_steps() if row.model == model}
    assert rows
    for key, row in rows.items():
        assert step_lines(plans, row.step) == costs[key]

"""Measured rows, and the floors of the nodes of each measured step.

    python -m bench.estimate.rows

plans the models of ``h200_rows.yaml`` anew and writes their floors to ``h200_costs.json``, so that
fitting and testing take no compile. A test holds the file against the plans.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from glmc.config import CompileOptions
from glmc.estimates.costs import Cost, Step
from glmc.estimates.few_layers import FewPlans, captured, planned
from glmc.estimates.lines import Line, step_lines
from glmc.job import resolve
from glmc.presets.catalog import load_config, with_fields

FOLDER = Path(__file__).parent
ROWS = FOLDER / "h200_rows.yaml"
COSTS = FOLDER / "h200_costs.json"
_DECODE = (1, 4, 16, 32, 64, 128, 256)
_PREFILL = (2048, 8192)


@dataclass(frozen=True)
class Row:
    """A measured step, or with ``kernel`` and ``module`` ``calls`` alike calls of it, one alone."""

    model: str
    phase: str
    size: int
    context: int
    ms: float
    fit: bool
    kernel: str = ""
    module: str = ""
    calls: int = 0

    @property
    def step(self) -> Step:
        if self.phase == "decode":
            return Step(self.phase, self.size, 1, self.context, self.size)
        return Step(self.phase, 1, self.size, self.context, self.size)

    @property
    def key(self) -> str:
        """Of the step, in the file of floors."""
        return f"{self.model} {self.phase} {self.size} {self.context}"

    def lines(self, costs: dict[str, tuple[Line, ...]]) -> tuple[Line, ...]:
        """What was measured: all lines of the step, or one node of one of them."""
        lines = costs[self.key]
        if not self.kernel:
            return lines
        name = f"cuda.{self.kernel}"
        like = [each for each in lines if each.module == self.module and name in each.kernels]
        most = max(like, key=lambda line: line.count)
        return (replace(most, layers=None, kernels=(name,)),)


def measured_steps() -> list[Row]:
    """All measured steps."""
    data = yaml.safe_load(ROWS.read_text(encoding="utf-8"))
    return [
        Row(*values, fit=data["models"][values[0]]["fit"])
        for run in data["runs"]
        for values in run["steps"]
    ]


def measured_calls() -> list[Row]:
    """All calls that were measured alone, at the context of the steps."""
    data = yaml.safe_load(ROWS.read_text(encoding="utf-8"))
    return [
        Row(model, "decode", batch, 1024, us / 1000, True, op, module, calls)
        for model, batch, op, module, calls, us in data["calls"]
    ]


def stored_costs() -> dict[str, tuple[Line, ...]]:
    """The lines of each measured step, from the file."""
    data = json.loads(COSTS.read_text(encoding="utf-8"))
    return {
        key: tuple(
            Line(op, module, layers and tuple(layers), tuple(kernels), Cost(kind, size, flops))
            for op, module, layers, kernels, kind, size, flops in lines
        )
        for key, lines in data.items()
    }


def plans_of(model: str) -> FewPlans:
    """Plans of a model of the file, few layers for all of them."""
    entry = yaml.safe_load(ROWS.read_text(encoding="utf-8"))["models"][model]
    source = load_config(entry["preset"])
    source = with_fields(source, replace(source.fields, num_hidden_layers=entry["layers"]))
    options = CompileOptions(
        target="cuda",
        dtype="bfloat16",
        weights="none",
        decode_buckets=_DECODE,
        prefill_buckets=_PREFILL,
    )
    return planned(captured(resolve(source, options)))


def main() -> None:
    rows = {row.key: row for row in measured_steps()}
    made: dict[str, Any] = {}
    for model in dict.fromkeys(row.model for row in rows.values()):
        plans = plans_of(model)
        for key, row in rows.items():
            if row.model == model:
                made[key] = [
                    [line.op, line.module, line.layers, line.kernels, *vars(line.cost).values()]
                    for line in step_lines(plans, row.step)
                ]
    text = ",\n".join(
        f"{json.dumps(key)}: [\n" + ",\n".join(json.dumps(line) for line in lines) + "\n]"
        for key, lines in made.items()
    )
    COSTS.write_text("{\n" + text + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Timelines of both sides of a benchmark, on a CPU: they say nothing of a device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.gpu import timelines

pytestmark = pytest.mark.long


def test_both_sides_have_their_steps_and_eager_code_its_modules(tmp_path: Path) -> None:
    words = ["--model", "air", "--quick", "--batches", "2", "--steps", "2"]
    assert timelines.main([*words, "--folder", str(tmp_path)]) == 0

    def names(file: str) -> list[str]:
        events = json.loads((tmp_path / file).read_text("utf-8"))["traceEvents"]
        return [event["name"] for event in events if event["ph"] == "X"]

    assert names("eager.2.json").count("execute_context_0(0)_generation_2(2)") == 2
    gate = "model.layers.1.mlp.gate Glm4MoeTopkRouter"
    assert gate not in names("eager.2.json")
    assert names("eager.2.modules.json").count(gate) == 2
    assert sum(name.endswith("decode") for name in names("glmc.2.json")) == 2

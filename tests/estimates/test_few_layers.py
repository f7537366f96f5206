"""What a model takes: few layers stand for all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmc.compiled import manifest_parts
from glmc.compiler import compile_plan
from glmc.config import CompileOptions
from glmc.estimates.few_layers import captured, few_layers, planned
from glmc.job import read_job
from glmc.presets.catalog import load_config
from glmc_runtime.format.manifest import Manifest, WeightEntry
from glmc_runtime.format.memory import memory_needs
from tests.support.checkpoints import tiny_file

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("shared_captures")]


def test_few_layers_stand_for_all_of_their_kind() -> None:
    few, layers = few_layers(load_config("glm-4.6").fields)
    assert (few.num_hidden_layers, few.dense_layers, few.moe_layers) == (4, 2, 2)
    assert layers == {0: range(1), 1: range(1, 3), 2: range(3, 4), 3: range(4, 92)}
    few, layers = few_layers(load_config("glm-4-9b-0414").fields)
    assert (few.num_hidden_layers, few.moe) == (2, None)
    assert layers == {0: range(1), 1: range(1, 40)}


@pytest.mark.parametrize(("dense", "layers"), [(3, 7), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_the_sums_are_those_of_the_whole_compile(dense: int, layers: int, tmp_path: Path) -> None:
    config = tiny_file("glm-4.7", num_hidden_layers=layers, first_k_dense_replace=dense)
    (tmp_path / "config.json").write_text(json.dumps(config))
    job = read_job(tmp_path, CompileOptions(dtype="bfloat16", weights="none"))
    few = planned(captured(job))
    compiled = compile_plan(job)
    weights = {
        weight.name: WeightEntry(("",), str(weight.dtype).removeprefix("torch."), weight.shape)
        for weight in compiled.weights.values()
    }
    whole = Manifest(
        **vars(manifest_parts(compiled)), weights=weights, weights_included=False, files={}
    )
    assert few.manifest == whole
    assert few.needs == memory_needs(whole, compiled.plans)

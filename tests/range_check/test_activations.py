"""The run in bfloat16 tells what float16 would do; views of weights are no activations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glmc.config import CompileOptions
from glmc.job import read_job
from glmc.range_check.activations import ActivationRange, activation_range
from glmc.range_check.decide import _fused
from tests.range_check.altered import DENSE, MOE, alter, checkpoint

pytestmark = pytest.mark.usefixtures("shared_captures")
IDS = torch.arange(24).view(1, 24)
GATE_UP = "model.layers.1.mlp.gate_up_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"


def ran(model: Path, dtype: str, limit: float = 65504.0) -> ActivationRange:
    job = read_job(model, CompileOptions(dtype=dtype))
    assert job.weights is not None
    return activation_range(_fused(job), job.weights, IDS, limit)


def test_what_is_beyond_the_range_overflows_in_float16(tmp_path: Path) -> None:
    """The op that bfloat16 finds beyond is the one where float16 has its first infinity."""
    model = checkpoint(tmp_path / "model", DENSE)
    assert ran(model, "float16").outside is None
    alter(model, GATE_UP, lambda weight: weight * 2.0**9)
    alter(model, DOWN, lambda weight: weight * 2.0**13)
    wide, narrow = ran(model, "bfloat16").outside, ran(model, "float16").outside
    assert wide is not None and narrow is not None
    assert (wide.name, wide.node, wide.layer) == (narrow.name, narrow.node, narrow.layer)
    assert float(wide.largest) > 65504 and narrow.largest in ("inf", "nan")


@pytest.mark.long
def test_magnitudes_are_told_for_each_op_largest_first(tmp_path: Path) -> None:
    found = ran(checkpoint(tmp_path / "model", MOE), "bfloat16")
    sizes = [float(each.largest) for each in found.ops]
    assert sizes == sorted(sizes, reverse=True)
    assert {"glmc.moe_ffn", "glmc.shared_expert", "glmc.attention"} <= {
        each.name for each in found.ops
    }


def test_a_slice_of_a_weight_is_no_activation(tmp_path: Path) -> None:
    """An expert's weights are a view of all: large ones that are hardly used count as weights."""
    model = checkpoint(tmp_path / "model", MOE)
    for expert in range(6):

        def silent_but_for_one(weight: torch.Tensor) -> torch.Tensor:
            weight = weight * 0.0
            weight[0, 0] = 60000.0
            return weight

        alter(
            model,
            f"model.layers.1.mlp.experts.{expert}.down_proj.weight",
            silent_but_for_one,
        )
    experts = [each for each in ran(model, "bfloat16").ops if each.name == "glmc.moe_ffn"]
    assert experts and float(experts[0].largest) < 60000.0


def test_a_nan_is_first_and_named(tmp_path: Path) -> None:
    def broken(weight: torch.Tensor) -> torch.Tensor:
        weight[0] = float("nan")
        return weight

    found = ran(alter(checkpoint(tmp_path / "model", DENSE), DOWN, broken), "bfloat16")
    assert found.outside is not None and found.outside.largest == "nan"
    assert found.outside.node == "model.layers.1.mlp.down_proj#linear"
    assert found.ops[0].largest == "nan"

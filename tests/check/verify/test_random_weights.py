"""A pool of full width: every parameter its own, in the memory of the largest matrix."""

from __future__ import annotations

import pytest
import torch

from glmc.check.verify.random_weights import STEP, RandomPool, scaled
from glmc.check.verify.scope import VOCABULARY, full_width, narrow
from glmc.errors import CheckpointError
from glmc.presets.catalog import load_config
from glmc.presets.parameters import parameter_shapes

FIELDS = narrow(load_config("glm-4.7"), torch.float32).source.fields
POOL = RandomPool(FIELDS, torch.float32, torch.bfloat16)


def test_every_parameter_differs_and_comes_again() -> None:
    again, other = (
        RandomPool(FIELDS, torch.float32, torch.bfloat16),
        RandomPool(FIELDS, torch.float32, torch.bfloat16, seed=1),
    )
    first: dict[tuple[float, ...], str] = {}
    for name, shape in parameter_shapes(FIELDS).items():
        value = POOL.parameter(name)
        assert tuple(value.shape) == shape == POOL.shape(name)
        assert torch.equal(value, again.parameter(name))
        assert not torch.equal(value, other.parameter(name))
        begin = tuple(value.flatten()[:8].tolist())
        assert begin not in first, (name, first.get(begin))
        first[begin] = name
        part = POOL.read(name, 3, 5)
        assert torch.equal(part, value.flatten()[3:8]) and part.is_contiguous()


def test_experts_differ_and_share_memory() -> None:
    value = POOL.parameter("model.layers.1.mlp.experts.gate_up_proj")
    assert value.shape[0] == 160 and value.stride(0) == STEP
    assert len({tuple(expert.flatten()[:8].tolist()) for expert in value}) == 160
    quieter = scaled(value, 0.5)
    assert torch.equal(quieter, value * 0.5) and quieter.stride() == value.stride()


def test_values_are_of_the_dtype_and_near_one() -> None:
    assert POOL.dtype("model.layers.1.mlp.gate.e_score_correction_bias") is torch.float32
    weight = POOL.parameter("model.layers.0.self_attn.q_proj.weight")
    assert torch.equal(weight, weight.bfloat16().float())
    assert float(weight.std()) == pytest.approx(FIELDS.hidden_size**-0.5, rel=0.05)
    assert float(POOL.parameter("model.norm.weight").mean()) == pytest.approx(1.0, abs=0.05)
    with pytest.raises(CheckpointError, match="no parameter 'nothing'"):
        POOL.parameter("nothing")


def test_glm_47_at_full_width_takes_the_memory_of_a_matrix() -> None:
    scope = full_width(load_config("glm-4.7"), torch.bfloat16)
    assert scope.text == f"layers 0 and 3 at full width, random weights, vocabulary {VOCABULARY}"
    assert scope.layers == {0: 0, 1: 3}
    fields = scope.source.fields
    assert (fields.hidden_size, fields.intermediate_size) == (5120, 12288)
    assert fields.moe is not None and fields.moe.n_routed_experts == 160
    pool = scope.weights.source
    assert isinstance(pool, RandomPool)
    experts = pool.parameter("model.layers.1.mlp.experts.gate_up_proj")
    assert experts.untyped_storage().nbytes() < 140e6 < experts.numel() * 2 / 30

"""Random weights: of a name, the same spread on both sides."""

from __future__ import annotations

import pytest
import torch

from bench.spread import BIAS, WEIGHT, draw, std_of


@pytest.mark.parametrize(
    ("ours", "engines", "std"),
    [
        (
            "model.layers.1.mlp.gate.e_score_correction_bias",
            "model.layers.1.mlp.experts.router.e_score_correction_bias",
            0.01,
        ),
        ("model.layers.0.self_attn.v_proj.bias", "model.layers.0.self_attn.qkv_proj.bias", BIAS),
        ("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.gate_up_proj.weight", WEIGHT),
        (
            "model.layers.1.mlp.experts.gate_up_proj",
            "model.layers.1.mlp.experts.w13_weight",
            WEIGHT,
        ),
        (
            "model.layers.0.self_attn.q_norm.weight",
            "model.layers.0.post_mlp_layernorm.weight",
            None,
        ),
        ("lm_head.weight", "model.embed_tokens.weight", WEIGHT),
    ],
)
def test_both_spellings_have_one_spread(ours: str, engines: str, std: float | None) -> None:
    assert std_of(ours) == std_of(engines) == std


def test_the_spread_of_biases_may_be_another() -> None:
    assert std_of("model.layers.0.self_attn.qkv_proj.bias", 0.02) == 0.02
    assert std_of("model.layers.1.mlp.gate.e_score_correction_bias", 0.02) == 0.01


def test_norms_are_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(draw("model.norm.weight", torch.zeros(4), generator), torch.ones(4))
    assert 0 < draw("lm_head.weight", torch.zeros(4096), generator).std() < 1.1 * WEIGHT

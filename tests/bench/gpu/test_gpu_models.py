"""Random weights: biases are small beside the others, in ours and in an engine's alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.engines.hosts import spread
from bench.gpu.gpu_models import random_model
from bench.models import gpu_model
from bench.spread import BIAS
from glmc.presets.catalog import load_config


class Layer(nn.Module):
    """Names as vLLM has them: the correction of a router is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv_proj = nn.Linear(64, 512)
        self.norm = nn.LayerNorm(64, bias=False)
        self.gate = nn.Linear(64, 512, bias=False)
        self.gate.e_score_correction_bias = nn.Parameter(torch.empty(512))


def stds(model: nn.Module, end: str) -> list[float]:
    found = [each for name, each in model.named_parameters() if name.endswith(end)]
    return [float(each.detach().float().std()) for each in found]


def test_an_engines_biases_are_small() -> None:
    model = Layer()
    assert spread(model) == 2 * (64 * 512 + 512) + 64
    assert stds(model, "qkv_proj.bias") == pytest.approx([BIAS], rel=0.2)
    assert stds(model, "qkv_proj.weight") == pytest.approx([0.02], rel=0.05)
    assert stds(model, "gate.e_score_correction_bias") == pytest.approx([0.01], rel=0.1)
    assert torch.equal(model.norm.weight, torch.ones(64))


def test_ours_are_as_small(tmp_path: Path) -> None:
    config = {**gpu_model("4.7", True).config, "num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = random_model(load_config(tmp_path).config, torch.device("cpu"))
    biases = stds(model, "_proj.bias")
    assert len(biases) == 3 and biases == pytest.approx([BIAS] * 3, rel=0.4)
    assert stds(model, "q_proj.weight") == pytest.approx([0.02], rel=0.1)

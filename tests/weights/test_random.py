"""Random weights: the same everywhere, spread sensibly, readable in any range."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glmc.errors import CheckpointError
from glmc.presets.catalog import load_config
from glmc.presets.fields import read_fields
from glmc.weights import random
from glmc.weights.checkpoint import open_checkpoint
from glmc.weights.random import RandomWeights
from tests.support.checkpoints import tiny_checkpoint, tiny_file

FIELDS = read_fields(tiny_file("glm-4.7"), place="test")
EXPERTS = "model.layers.1.mlp.experts.gate_up_proj"


def whole(source: RandomWeights, name: str) -> torch.Tensor:
    return source.read(name, 0, torch.Size(source.shape(name)).numel())


def test_depends_on_name_and_seed_only() -> None:
    first, second = (RandomWeights(FIELDS, torch.bfloat16, seed) for seed in (1, 2))
    again = RandomWeights(FIELDS, torch.bfloat16, 1)
    again.read("lm_head.weight", 5, 9)
    assert torch.equal(whole(first, EXPERTS), whole(again, EXPERTS))
    assert not torch.equal(whole(first, EXPERTS), whole(second, EXPERTS))
    other = EXPERTS.replace("layers.1", "layers.2")
    assert not torch.equal(whole(first, EXPERTS), whole(first, other))


def test_any_range_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "BLOCK", 64)
    source = RandomWeights(FIELDS, torch.float32)
    full = whole(source, EXPERTS)
    for begin, count in ((0, 1), (63, 2), (64, 64), (5, 1000), (len(full) - 1, 1), (3, 0)):
        assert torch.equal(source.read(EXPERTS, begin, count), full[begin : begin + count])


def test_values_are_pinned() -> None:
    """A changed generator would change every artifact made with --random-weights."""
    values = RandomWeights(FIELDS, torch.float32, 7).read("lm_head.weight", 0, 3)
    torch.testing.assert_close(values, torch.tensor(PINNED), rtol=1e-5, atol=0)


PINNED = [0.06754983961582184, -0.010821913368999958, -0.0006036341073922813]


def test_spread() -> None:
    source = RandomWeights(FIELDS, torch.float32)
    assert whole(source, "model.layers.0.self_attn.q_norm.weight").unique().tolist() == [1.0]
    assert 0.018 < whole(source, EXPERTS).std().item() < 0.022
    gate = whole(source, "model.layers.1.mlp.gate.weight")
    assert 0.7 < gate.std().item() * 32**0.5 < 1.3
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"
    assert 0 < whole(source, bias).abs().max().item() < 0.3
    assert whole(source, "model.layers.0.self_attn.q_proj.bias").abs().max().item() > 0
    assert RandomWeights(FIELDS, torch.bfloat16).dtype(bias) is torch.float32


def test_experts_by_either_name() -> None:
    source = RandomWeights(FIELDS, torch.float32)
    stacked = whole(source, EXPERTS).view(6, 2, 24 * 32)
    up = whole(source, "model.layers.1.mlp.experts.4.up_proj.weight")
    assert torch.equal(up, stacked[4, 1])


def test_is_what_a_random_checkpoint_holds(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path, seed=3)
    checkpoint = open_checkpoint(tmp_path, FIELDS)
    source = RandomWeights(FIELDS, torch.bfloat16, 3)
    for name in source.names:
        count = torch.Size(source.shape(name)).numel()
        assert torch.equal(checkpoint.read(name, 0, count), whole(source, name)), name


def test_tied_head_and_unknown_name() -> None:
    tied = read_fields(tiny_file("glm-4-9b-0414", tie_word_embeddings=True), place="test")
    source = RandomWeights(tied, torch.float32)
    assert torch.equal(whole(source, "lm_head.weight"), whole(source, "model.embed_tokens.weight"))
    with pytest.raises(CheckpointError, match=r"'model\.absent'"):
        source.shape("model.absent")


def test_full_size_is_read_in_pieces() -> None:
    source = RandomWeights(load_config("glm-4.7").fields, torch.bfloat16)
    name = "model.layers.91.mlp.experts.gate_up_proj"
    assert source.shape(name) == (160, 3072, 5120)
    assert source.read(name, 160 * 3072 * 5120 - 2, 2).shape == (2,)

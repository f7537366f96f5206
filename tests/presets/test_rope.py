"""Every spelling of a rope against the table that transformers itself makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.models.glm4.modeling_glm4 import Glm4RotaryEmbedding
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeRotaryEmbedding

from glmc.errors import ConfigError
from glmc.presets.catalog import load_config
from glmc.presets.fields import read_fields
from glmc.presets.rope import longest_context, resolve_rope
from tests.support.checkpoints import tiny_file

FIVE = pytest.mark.skipif(
    int(transformers.__version__.split(".", maxsplit=1)[0]) < 5,
    reason="transformers 4 knows no rope_parameters and takes the factor from two lengths",
)
YARN = {"factor": 4.0, "original_max_position_embeddings": 32}
TOP = {"rope_theta": 5000.0}
HALF = {"partial_rotary_factor": 0.5}


def file_with(preset: str, rope: dict[str, Any], **more: Any) -> dict[str, Any]:
    """config.json data that has of rope what ``rope`` has and nothing else."""
    data = tiny_file(preset, head_dim=32, **more)
    for name in ("rope_theta", "rope_scaling", "partial_rotary_factor", "rope_parameters"):
        data.pop(name, None)
    return data | rope


def table(preset: str, config: Any) -> tuple[torch.Tensor, float]:
    kind: Any = Glm4MoeRotaryEmbedding if preset == "glm-4.7" else Glm4RotaryEmbedding
    rotary = kind(config)
    return rotary.inv_freq, float(rotary.attention_scaling)


SPELLINGS: dict[str, dict[str, Any]] = {
    "top level": TOP | HALF,
    "no factor": TOP,
    "whole number": {"rope_theta": 5000, "rope_scaling": None},
    "empty scaling": TOP | {"rope_scaling": {}},
    "default scaling": TOP | {"rope_scaling": {"type": "default"}},
    "constants of no kind": TOP | {"rope_scaling": {"rope_type": "default", "factor": 8.0}},
    "quarter": TOP | {"partial_rotary_factor": 0.25},
    "parameters": {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0} | HALF},
    "parameters without kind": {"rope_parameters": {"rope_theta": 5000.0}},
    "parameters beside theta": TOP | {"rope_parameters": {"rope_type": "default"}},
    "factor beside parameters": HALF | {"rope_parameters": {"rope_theta": 5000.0}},
    "linear": TOP | {"rope_scaling": {"type": "linear", "factor": 4}},
    "linear of one": TOP | {"rope_scaling": {"type": "linear", "factor": 1.0}},
    "yarn, type": TOP | {"rope_scaling": {"type": "yarn", **YARN}},
    "yarn, rope_type": TOP | {"rope_scaling": {"rope_type": "yarn", **YARN}},
    "yarn, both": TOP | {"rope_scaling": {"rope_type": "yarn", "type": "yarn", **YARN}},
    "yarn, whole numbers": TOP | {"rope_scaling": {"type": "yarn", **YARN, "factor": 4}},
    "yarn, theta inside": {"rope_scaling": {"type": "yarn", "rope_theta": 5000.0, **YARN}},
    "yarn, factor inside": TOP
    | {"rope_scaling": {"type": "yarn", "partial_rotary_factor": 0.25, **YARN}},
    "yarn, no original": TOP | {"rope_scaling": {"type": "yarn", "factor": 2.0}},
    "yarn, original outside": TOP
    | {"original_max_position_embeddings": 64, "rope_scaling": {"type": "yarn", "factor": 4.0}},
    "yarn, attention": TOP | {"rope_scaling": {"type": "yarn", **YARN, "attention_factor": 1.25}},
    "yarn, null constants": TOP
    | {"rope_scaling": {"type": "yarn", **YARN, "attention_factor": None, "beta_fast": None}},
    "yarn, mscale": TOP
    | {"rope_scaling": {"type": "yarn", **YARN, "mscale": 0.7, "mscale_all_dim": 1.3}},
    "yarn, one mscale": TOP | {"rope_scaling": {"type": "yarn", **YARN, "mscale": 0.7}},
    "yarn, betas": TOP | {"rope_scaling": {"type": "yarn", **YARN, "beta_fast": 8, "beta_slow": 2}},
    "yarn, not truncated": TOP | {"rope_scaling": {"type": "yarn", **YARN, "truncate": False}},
    "yarn, null truncate": TOP | {"rope_scaling": {"type": "yarn", **YARN, "truncate": None}},
    "yarn, factor of one": TOP | {"rope_scaling": {"type": "yarn", **YARN, "factor": 1.0}},
    "yarn, parameters": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 5000.0, **YARN}},
    "llama3": TOP
    | {
        "rope_scaling": {
            **{"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0},
            **YARN,
        }
    },
    "two blocks, one meaning": {
        "rope_scaling": {"type": "yarn", **YARN, "rope_theta": 5000.0, "beta_fast": 32},
        "rope_parameters": {"rope_type": "yarn", **YARN, "rope_theta": 5000.0, **HALF},
    },
    "two blocks, default theta": {
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 10000.0},
    },
}


@FIVE
@pytest.mark.parametrize("preset", ["glm-4-9b-0414", "glm-4.7"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_table_is_that_of_transformers(tmp_path: Path, preset: str, spelling: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(file_with(preset, SPELLINGS[spelling])))
    frequencies, scaling = table(preset, transformers.AutoConfig.from_pretrained(tmp_path))
    ours, our_scaling = table(preset, load_config(tmp_path).config)
    assert torch.equal(ours, frequencies)
    assert our_scaling == scaling


def same(first: str, *others: str) -> bool:
    meanings = [
        resolve_rope(file_with("glm-4.7", SPELLINGS[name]), partial=0.5, place="test")
        for name in (first, *others)
    ]
    return all(each == meanings[0] for each in meanings)


def test_meaning_is_compared_and_not_spelling() -> None:
    plain = ("no factor", "whole number", "empty scaling", "default scaling", "linear of one")
    assert same("top level", *plain, "parameters", "parameters beside theta")
    yarn = ("yarn, rope_type", "yarn, both", "yarn, whole numbers", "yarn, theta inside")
    assert same("yarn, type", *yarn, "yarn, null constants", "yarn, one mscale", "yarn, parameters")
    assert not same("yarn, type", "yarn, betas")
    assert not same("yarn, type", "yarn, attention")
    assert not same("yarn, type", "top level")


REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "two blocks": (
        {
            "rope_scaling": {"type": "yarn", **YARN},
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **HALF},
        },
        ("rope_scaling", "rope_parameters"),
    ),
    "a theta that transformers drops": (
        {
            "rope_scaling": {"type": "yarn", **YARN},
            "rope_parameters": {"rope_type": "yarn", **YARN, "rope_theta": 1e6},
        },
        ("rope_scaling", "rope_parameters", "rope_theta 10000"),
    ),
    "two thetas": (TOP | {"rope_parameters": {"rope_theta": 7.0}}, ("rope_theta", "twice")),
    "two factors": (
        TOP | {"partial_rotary_factor": 0.25, "rope_scaling": {"rope_type": "default", **HALF}},
        ("partial_rotary_factor", "twice", "rope_scaling"),
    ),
    "two originals": (
        TOP
        | {"original_max_position_embeddings": 16, "rope_scaling": {"rope_type": "yarn", **YARN}},
        ("original_max_position_embeddings", "twice"),
    ),
    "two kinds": (
        TOP | {"rope_scaling": {"type": "yarn", "rope_type": "default", **YARN}},
        ("rope_type", "type", "yarn", "default"),
    ),
    "no kind": (TOP | {"rope_scaling": YARN}, ("rope_type of rope_scaling", "factor")),
    "no constants": (TOP | {"rope_scaling": {"type": "yarn"}}, ("factor of rope_scaling",)),
    "text": (TOP | {"rope_scaling": {"type": "linear", "factor": "4"}}, ("factor", "'4'")),
    "negative": (TOP | {"rope_scaling": {"type": "linear", "factor": -4}}, ("factor", "-4")),
    "dynamic": (TOP | {"rope_scaling": {"type": "dynamic", "factor": 2}}, ("dynamic", "grows")),
    "longrope": (TOP | {"rope_scaling": {"type": "longrope"}}, ("longrope", "length")),
    "layers": (TOP | {"rope_parameters": {"full_attention": {}}}, ("full_attention",)),
    "a list": (TOP | {"rope_parameters": []}, ("rope_parameters",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_blocks_and_fields(name: str) -> None:
    rope, words = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        read_fields(file_with("glm-4.7", rope), place="config of the test")
    for word in (*words, "config of the test"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("spelling", "longest"),
    [
        ("top level", 128),
        ("yarn, type", 128),  # 4 times 32 is what max_position_embeddings says already
        ("yarn, no original", 256),
        ("yarn, original outside", 256),
        ("linear", 512),
        ("llama3", 128),
    ],
)
def test_how_far_a_rope_goes(spelling: str, longest: int) -> None:
    data = file_with("glm-4.7", SPELLINGS[spelling])
    fields = read_fields(data, place="test")
    assert longest_context(fields.rope_scaling, 128) == fields.longest_context == longest

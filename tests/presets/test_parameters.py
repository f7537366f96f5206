"""Names, shapes and counts against the modules that transformers builds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from glmc.presets.build import build_config
from glmc.presets.catalog import load_config, load_preset, preset_names
from glmc.presets.fields import read_fields
from glmc.presets.parameters import parameter_count, parameter_shapes
from tests.support.checkpoints import tiny_file

STACKED = int(transformers.__version__.split(".", maxsplit=1)[0]) >= 5


def meta_model(data: dict[str, Any]) -> nn.Module:
    config = build_config(read_fields(data, place="test"), data)
    with torch.device("meta"):
        model: nn.Module = transformers.AutoModelForCausalLM.from_config(config)
    return model


@pytest.mark.parametrize(
    "data",
    [
        tiny_file("glm-4.7"),
        tiny_file("glm-4.5-air", n_shared_experts=2),
        tiny_file("glm-4.7", first_k_dense_replace=0),
        tiny_file("glm-4.7", first_k_dense_replace=9),
        tiny_file("glm-4-9b-0414"),
        tiny_file("glm-4-32b-0414"),
        tiny_file("glm-4-9b-0414", tie_word_embeddings=True),
        tiny_file("glm-4-9b-0414", architectures=["GlmForCausalLM"], model_type="glm"),
    ],
    ids=["moe", "air", "all-moe", "all-dense", "9b", "32b", "tied", "glm"],
)
def test_shapes_are_those_of_the_module(data: dict[str, Any]) -> None:
    fields = read_fields(data, place="test")
    model = meta_model(data)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if fields.tie_word_embeddings:
        del wanted["lm_head.weight"]
    assert parameter_shapes(fields, stacked_experts=STACKED) == wanted
    assert parameter_count(fields) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "billions", "exact"),
    [
        ("glm-4-9b-0414", 9.40, 9_400_279_040),
        ("glm-z1-9b", 9.40, 9_400_279_040),
        ("glm-4-32b-0414", 32.57, 32_566_081_536),
        ("glm-z1-32b", 32.57, 32_566_081_536),
        ("glm-z1-rumination-32b", 33.14, 33_141_749_760),
        ("glm-4.5-air", 106.85, 106_852_245_504),
        ("glm-4.5", 352.80, 352_797_814_784),
        ("glm-4.6", 352.80, 352_797_814_784),
        ("glm-4.7", 352.80, 352_797_814_784),
    ],
)
def test_published_sizes(name: str, billions: float, exact: int) -> None:
    assert load_config(name).shape.parameters == exact == load_preset(name).parameters
    assert round(exact / 1e9, 2) == billions


def test_full_size_on_meta() -> None:
    data = dict(load_preset("glm-4.5-air").config)
    total = sum(parameter.numel() for parameter in meta_model(data).parameters())
    assert total == load_preset("glm-4.5-air").parameters


def test_every_preset_has_a_size() -> None:
    assert len(preset_names()) == 9

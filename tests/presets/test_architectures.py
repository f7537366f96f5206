"""Models that are not compiled are refused by name, with what is missing and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from glmc.errors import ConfigError
from glmc.presets.architectures import MODEL_TYPES, read_architecture
from glmc.presets.quantised import METHODS, refuse_quantised

REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "flash": (
        {"architectures": ["Glm4MoeLiteForCausalLM"], "model_type": "glm4_moe_lite"},
        ("Glm4MoeLiteForCausalLM", "GLM-4.7-Flash", "MLA", "'architectures'"),
    ),
    "flash by type": ({"model_type": "glm4_moe_lite"}, ("GLM-4.7-Flash", "'model_type'")),
    "five": ({"architectures": ["GlmMoeDsaForCausalLM"]}, ("GLM-5", "MLA", "DSA indexer")),
    "five by type": ({"model_type": "glm_moe_dsa"}, ("glm_moe_dsa", "DSA indexer")),
    "next": ({"model_type": "glm5_next"}, ("GLM-5.3-Flash", "linear attention")),
    "vision": ({"architectures": ["Glm4vForConditionalGeneration"]}, ("image encoder", "M-RoPE")),
    "large vision": ({"model_type": "glm4v_moe"}, ("GLM-4.5V", "image encoder")),
    "text of vision": ({"model_type": "glm4v_moe_text"}, ("GLM-4.5V", "M-RoPE")),
    "wrapper": ({"model_type": "glm46v"}, ("GLM-4.6V",)),
    "characters": ({"model_type": "glm_ocr"}, ("GLM-OCR",)),
    "sound": ({"model_type": "glmasr"}, ("GLM-ASR", "audio")),
    "own code": (
        {"architectures": ["ChatGLMModel"], "model_type": "chatglm", "auto_map": {}},
        ("ChatGLMModel", "runs no code", "glm-4-9b-chat-hf"),
    ),
    "another head": (
        {"architectures": ["Glm4ForSequenceClassification"], "model_type": "glm4"},
        ("Glm4ForSequenceClassification", "another head"),
    ),
    "no head": ({"architectures": ["Glm4MoeModel"], "model_type": "glm4_moe"}, ("lm_head",)),
    "two models": (
        {"architectures": ["Glm4ForCausalLM"], "model_type": "glm"},
        ("Glm4ForCausalLM", "'glm'", "model_type"),
    ),
    "nothing": ({}, ("GLM-4-0414",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_which_model_and_what_is_missing(name: str) -> None:
    data, words = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        read_architecture(data, "config of the test")
    assert caught.value.remedy
    for word in (*words, "config of the test"):
        assert word in str(caught.value)


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_one_of_the_two_fields_is_enough(kind: str) -> None:
    name = MODEL_TYPES[kind]
    for data in ({"model_type": kind}, {"architectures": [name]}, {"architectures": name}):
        assert read_architecture(data, "test") == name
    both = {"architectures": [name], "model_type": kind, "auto_map": {"AutoModel": "x.Y"}}
    assert read_architecture(both, "test") == name


@pytest.mark.parametrize("method", METHODS)
def test_each_format_is_named(method: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_quantised({"quantization_config": {"quant_method": method, "bits": 4}}, "test")
    for word in (METHODS[method], repr(method), "bits 4", "quantization_config", "unquantised"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({"quantization": {"group_size": 64, "bits": 4}}, "MLX"),
        ({"compression_config": {"format": "int-quantized"}}, "compressed-tensors"),
        ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "newest"}}, "does not know"),
        ({"quantize": "w8a8"}, "msModelSlim"),
    ],
)
def test_other_spellings_of_a_format(data: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        refuse_quantised(data, "test")


def test_a_null_is_no_format() -> None:
    refuse_quantised({"quantization_config": None, "quantize": False}, "test")

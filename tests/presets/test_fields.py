"""Reading config.json: both spellings, every missing field named, nothing assumed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmc.errors import ConfigError
from glmc.presets.fields import read_fields
from tests.support.checkpoints import tiny_file

REQUIRED_DENSE = (
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "partial_rotary_factor",
    "rms_norm_eps",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
)
REQUIRED_MOE = (
    "first_k_dense_replace",
    "moe_intermediate_size",
    "n_group",
    "n_routed_experts",
    "n_shared_experts",
    "norm_topk_prob",
    "num_experts_per_tok",
    "routed_scaling_factor",
    "topk_group",
    "use_qk_norm",
)


def modern(data: dict[str, Any]) -> dict[str, Any]:
    """The same config as transformers 5.x writes it."""
    data = dict(data)
    data["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": data.pop("rope_theta"),
        "partial_rotary_factor": data.pop("partial_rotary_factor"),
    }
    data["dtype"] = data.pop("torch_dtype")
    del data["rope_scaling"]
    return data


def test_both_spellings_read_the_same() -> None:
    data = tiny_file("glm-4.7")
    fields = read_fields(data, place="test")
    assert read_fields(modern(data), place="test") == fields
    assert (fields.rope_theta, fields.partial_rotary_factor) == (1e6, 0.5)
    assert fields.dtype is torch.bfloat16
    assert fields.eos_token_ids == (1, 2)
    assert (fields.dense_layers, fields.moe_layers) == (1, 2)


@pytest.mark.parametrize("name", REQUIRED_DENSE)
@pytest.mark.parametrize("preset", ["glm-4-9b-0414", "glm-4.7"])
@pytest.mark.parametrize("null", [False, True])
def test_a_missing_field_is_named(preset: str, name: str, null: bool) -> None:
    data = tiny_file(preset, **{name: None})
    if not null:
        del data[name]
    with pytest.raises(ConfigError, match=rf"missing: {name}\n"):
        read_fields(data, place="test")


@pytest.mark.parametrize("name", REQUIRED_MOE)
def test_a_missing_moe_field_is_named(name: str) -> None:
    data = tiny_file("glm-4.7")
    del data[name]
    with pytest.raises(ConfigError, match=rf"missing: {name}\n"):
        read_fields(data, place="test")


def test_all_missing_fields_are_in_one_error() -> None:
    with pytest.raises(ConfigError) as caught:
        read_fields({"architectures": ["Glm4MoeForCausalLM"]}, place="test")
    assert set(caught.value.found.removeprefix("missing: ").split(", ")) == {
        *REQUIRED_DENSE,
        *REQUIRED_MOE,
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "Glm4MoeForCausalLM"),
        ({"architectures": ["Glm4MoeForCausalLM", "Other"]}, "Other"),
        ({"architectures": None, "model_type": "glm4v"}, "glm4v"),
        ({"architectures": 4}, "4"),
        ({"architectures": {"a": 1}}, "'a'"),
        ({"head_dim": 0}, "head_dim"),
        ({"head_dim": 16.0}, "head_dim"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"rope_theta": "1e6"}, "rope_theta"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"attention_bias": 1}, "attention_bias"),
        ({"hidden_act": "gelu"}, "silu"),
        ({"num_key_value_heads": 3}, "multiple of num_key_value_heads"),
        ({"partial_rotary_factor": 0.3}, "even number"),
        ({"partial_rotary_factor": 2.0}, "even number"),
        ({"eos_token_id": [96]}, "vocabulary"),
        ({"eos_token_id": "end"}, "no token id"),
        ({"torch_dtype": "float8_e4m3fn"}, "float8_e4m3fn"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_scaling": "linear"}, "kind of rope"),
        ({"rope_parameters": {"rope_theta": 5.0}}, "given twice"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised"),
        ({"n_group": 4}, "n_group divides"),
        ({"n_group": 2, "topk_group": 3}, "topk_group is at most"),
        ({"n_group": 3, "num_experts_per_tok": 3}, "num_experts_per_tok is at most"),
        ({"num_nextn_predict_layers": "one"}, "num_nextn_predict_layers"),
    ],
)
def test_refusals(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_fields(tiny_file("glm-4.7", **changes), place="config of the test")
    assert words in str(caught.value)
    assert "config of the test" in str(caught.value)


def test_scaled_rope_keeps_its_constants() -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    fields = read_fields(tiny_file("glm-4-9b-0414", rope_scaling=scaling), place="test")
    assert fields.rope_scaling == {**scaling, "rope_type": "yarn"}
    plain = tiny_file("glm-4-9b-0414", rope_scaling={"rope_type": "default"})
    assert read_fields(plain, place="test").rope_scaling is None

"""Reading config.json: both spellings, every missing field named, nothing assumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from glmc.errors import ConfigError
from glmc.presets.absent import ABSENT
from glmc.presets.catalog import load_preset
from glmc.presets.fields import MODEL_TYPES, read_fields, stop_ids
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


def test_an_absent_field_means_what_transformers_takes(tmp_path: Path) -> None:
    """Each value of the table against the class of transformers, given a file without the field."""
    for architecture, values in ABSENT.items():
        kind = next(kind for kind, name in MODEL_TYPES.items() if name == architecture)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        config = transformers.AutoConfig.from_pretrained(tmp_path)
        rope = getattr(config, "rope_parameters", None) or {}
        partial = rope.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None))
        assert partial == values["partial_rotary_factor"], architecture
        assert tuple(config.eos_token_id or ()) == values["eos_token_id"], architecture


@pytest.mark.parametrize("architecture", ABSENT)
def test_an_absent_rotary_factor_is_a_half(architecture: str) -> None:
    kind = next(kind for kind, name in MODEL_TYPES.items() if name == architecture)
    preset = "glm-4.7" if kind == "glm4_moe" else "glm-4-9b-0414"
    data = tiny_file(preset, architectures=[architecture], model_type=kind)
    del data["partial_rotary_factor"]
    assert read_fields(data, place="test").partial_rotary_factor == 0.5
    data["partial_rotary_factor"] = None
    with pytest.raises(ConfigError, match="partial_rotary_factor"):
        read_fields(data, place="test")


@pytest.mark.parametrize("null", [False, True])
def test_an_option_supplies_what_is_absent(null: bool) -> None:
    data = tiny_file("glm-4-9b-0414", torch_dtype=None, max_position_embeddings=None)
    if not null:
        del data["torch_dtype"], data["max_position_embeddings"]
    with pytest.raises(ConfigError, match="--max-context"):
        read_fields(data, place="test")
    options = {"dtype": "float16", "max_position_embeddings": 64}
    fields = read_fields(data, place="test", supplied=options)
    assert (fields.dtype, fields.max_position_embeddings) == (torch.float16, 64)
    data |= {"dtype": None, "torch_dtype": "float32", "max_position_embeddings": 32}
    fields = read_fields(data, place="test", supplied=options)
    assert (fields.dtype, fields.max_position_embeddings) == (torch.float32, 32)


def test_a_dtype_that_an_option_replaces() -> None:
    data = tiny_file("glm-4-9b-0414", torch_dtype="float64")
    with pytest.raises(ConfigError, match="--dtype"):
        read_fields(data, place="test")
    assert read_fields(data, place="test", supplied={"dtype": "float32"}).dtype is torch.float32


def test_second_names_of_fields() -> None:
    data = tiny_file("glm-4.7", num_local_experts=6)
    assert (
        read_fields(data, place="test").moe == read_fields(tiny_file("glm-4.7"), place="test").moe
    )
    data["n_routed_experts"] = None
    experts = read_fields(data, place="test").moe
    assert experts is not None and experts.n_routed_experts == 6
    with pytest.raises(ConfigError, match="num_local_experts"):
        read_fields(tiny_file("glm-4.7", num_local_experts=4), place="test")


def test_published_values_are_told(tmp_path: Path) -> None:
    data = tiny_file("glm-4.7")
    del data["rope_theta"]
    with pytest.raises(ConfigError, match=r"rope_theta: published is 10000\.0 in GLM-4-0414"):
        read_fields(data, place="test")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"per_layer_config": {"0": {"hidden_size": 8}}}, "per_layer_config"),
        ({"transformers_weights": "other.safetensors"}, r"other\.safetensors"),
    ],
)
def test_what_transformers_reads_and_glmc_does_not(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_fields(tiny_file("glm-4.7", **changes), place="test")


def test_stops_of_a_file_without_any() -> None:
    """GlmConfig and Glm4Config fill in the published ids, the mixtures of experts none."""
    large = read_fields(load_preset("glm-4-9b-0414").config, place="test")
    assert stop_ids(large, None, place="test") == (151329, 151336, 151338)
    small = read_fields(tiny_file("glm-4-9b-0414"), place="test")
    assert stop_ids(small, None, place="test") == ()
    assert stop_ids(small, 7, place="test") == (7,)
    experts = read_fields(load_preset("glm-4.7").config, place="test")
    assert stop_ids(experts, None, place="test") == ()

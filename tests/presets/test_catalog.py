"""Presets and checkpoint directories as the source of a compile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from glmc.errors import ConfigError
from glmc.presets.catalog import load_config, load_preset, preset_names
from tests.support.checkpoints import tiny_file

# Values that the config classes would silently replace.
PUBLISHED: dict[str, dict[str, object]] = {
    "glm-4.7": {"rope_theta": 1e6, "attention_bias": True, "head_dim": 128, "use_qk_norm": True},
    "glm-4.6": {"max_position_embeddings": 202752},
    "glm-4.5": {"max_position_embeddings": 131072, "routed_scaling_factor": 2.5},
    "glm-4.5-air": {"use_qk_norm": False, "routed_scaling_factor": 1.0, "rope_theta": 1e6},
    "glm-4-32b-0414": {"attention_bias": False, "num_key_value_heads": 2, "rms_norm_eps": 1e-5},
    "glm-z1-rumination-32b": {"num_key_value_heads": 8, "max_position_embeddings": 131072},
    "glm-z1-9b": {"intermediate_size": 13696, "rms_norm_eps": 1e-5},
}


def directory_with(path: Path, **changes: object) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(tiny_file("glm-4.7", **changes)))
    return path


@pytest.mark.parametrize("name", preset_names())
def test_each_field_has_one_grade(name: str) -> None:
    preset = load_preset(name)
    assert set(preset.confidence) == set(preset.config)
    assert set(preset.confidence.values()) <= {"A", "B", "C"}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_values_reach_the_config_object(name: str) -> None:
    config = load_config(name).config
    values = {**config.to_dict(), **(getattr(config, "rope_parameters", None) or {})}
    assert {field: values[field] for field in PUBLISHED[name]} == PUBLISHED[name]


def test_a_preset() -> None:
    source = load_config("glm-4.5-air")
    assert source.directory is None
    assert source.dtype is torch.bfloat16
    assert source.eos_token_ids == source.shape.eos_token_ids == (151329, 151336, 151338)
    assert source.config.architectures == ["Glm4MoeForCausalLM"]
    assert (source.shape.layers, source.shape.kv_heads, source.shape.head_dim) == (46, 8, 128)


def test_a_directory(tmp_path: Path) -> None:
    source = load_config(directory_with(tmp_path / "my-model"))
    assert source.directory == tmp_path / "my-model"
    assert source.name == "my-model"
    assert source.eos_token_ids == (1, 2)
    assert source.expected_matches["moe_gate"] == 2


def test_generation_config_has_the_last_word_on_eos(tmp_path: Path) -> None:
    directory = directory_with(tmp_path / "model")
    (directory / "generation_config.json").write_text('{"eos_token_id": [7, 8, 9]}')
    assert load_config(directory).eos_token_ids == (7, 8, 9)
    (directory / "generation_config.json").write_text('{"temperature": 0.6}')
    assert load_config(directory).eos_token_ids == (1, 2)
    (directory / "generation_config.json").write_text('{"eos_token_id": 96}')
    with pytest.raises(ConfigError, match="vocabulary"):
        load_config(directory)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"glm-4\.5-air"):
        load_config("glm-5")
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="can't be read"):
        load_config(tmp_path)
    for text in ("[" * 100_000, '{"a": ' + "9" * 5000 + "}"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ConfigError, match="can't be read"):
            load_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="no JSON object"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match="a file"):
        load_config(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="refuses the config"):
        load_config(directory_with(tmp_path / "dropout", attention_dropout="x"))
    with pytest.raises(ConfigError, match="torch_dtype"):
        load_config(directory_with(tmp_path / "without", torch_dtype=None))

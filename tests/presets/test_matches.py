"""The literal match counts of the presets against the ones counted from the layers."""

from __future__ import annotations

import pytest

from glmc.presets.catalog import load_config, load_preset, preset_names
from glmc.presets.fields import read_fields
from glmc.presets.matches import expected_collectives, expected_matches
from tests.support.checkpoints import tiny_file


@pytest.mark.parametrize("name", preset_names())
def test_literal_and_derived_counts_agree(name: str) -> None:
    source = load_config(name)
    assert dict(load_preset(name).matches) == expected_matches(source.fields)
    assert source.expected_matches == expected_matches(source.config)


def test_glm_4_7() -> None:
    counts = load_preset("glm-4.7").matches
    assert (counts["moe_gate"], counts["moe_ffn"], counts["shared_expert"]) == (89, 89, 89)
    assert (counts["attention"], counts["rope"], counts["qkv_merge"]) == (92, 184, 92)
    assert counts["gate_up_merge"] == 3 + 89


def test_collectives_of_a_step() -> None:
    """A sum for each attention and each MLP, and for the embedding; the logits are joined."""
    found = {name: expected_collectives(load_config(name).fields) for name in preset_names()}
    assert found["glm-4.7"] == {"all_reduce": 2 * 92 + 1, "all_gather": 1}
    assert found["glm-4.5-air"] == {"all_reduce": 2 * 46 + 1, "all_gather": 1}
    assert found["glm-4-9b-0414"] == {"all_reduce": 2 * 40 + 1, "all_gather": 1}


def test_dense_models_have_no_experts() -> None:
    counts = load_preset("glm-4-32b-0414").matches
    assert counts["rms_norm"] == 4 * 61 + 1
    assert [counts[name] for name in ("moe_gate", "moe_ffn", "qk_norm")] == [0] * 3
    assert counts["gate_up_merge"] == 61


def test_counts_follow_the_layers() -> None:
    fields = read_fields(tiny_file("glm-4.7", num_hidden_layers=5, use_qk_norm=False), place="test")
    counts = expected_matches(fields)
    assert (counts["rms_norm"], counts["add_rms_norm"], counts["qk_norm"]) == (11, 10, 0)
    assert (counts["moe_gate"], counts["gate_up_merge"]) == (4, 5)

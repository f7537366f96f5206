"""The fusions of ``torch.compile`` in each published model are as many as its preset says.

Every layer of the published config is there, all of them narrow.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from glmc.presets.catalog import load_preset, preset_names
from tests.dynamo.compiled import decode, fusions, prompt, static_cache, watched

NARROW = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 48,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": None,
    "initializer_range": 0.02,
}
# Passes of the artifact's road: its paged cache, and the two phases.
ELSEWHERE = ("kv_cache", "specialise")


def narrow(name: str) -> Any:
    """A model of the preset's layers and switches."""
    published = dict(load_preset(name).config)
    fields = {**published, **{key: value for key, value in NARROW.items() if key in published}}
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    config._experts_implementation = "batched_mm"
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", preset_names())
def test_as_many_fusions_as_the_preset_has(name: str) -> None:
    model = narrow(name)
    steps = 3
    expected = decode(model, model.forward, steps, static_cache(model), prompt(1))
    with watched() as graphs:
        forward = torch.compile(model.forward, backend="kunlun", fullgraph=True)
        found = decode(model, forward, steps, static_cache(model), prompt(1))
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    (graph,) = graphs
    matches = load_preset(name).matches
    wanted = {key: count for key, count in matches.items() if key not in ELSEWHERE}
    counted = fusions(graph)
    assert {key: counted[key] for key in wanted} == wanted
    assert [miss for record in graph.records for miss in record.near_misses] == []

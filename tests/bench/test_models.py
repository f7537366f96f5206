"""Published models among those of the benchmarks."""

from __future__ import annotations

from bench.models import published_models


def test_a_preset_is_a_model_by_its_name() -> None:
    (model,) = published_models(["dense", "glm-4-9b-0414", "no-such"])
    assert (model.key, model.layers, model.checkpoint) == ("glm-4-9b-0414", 40, None)
    assert 17e9 < model.weight_bytes(1) < 19e9  # all but the embedding

"""Layers of a record, as they are asked for and as keys have them."""

from __future__ import annotations

import pytest

from glmc_runtime.errors import RequestError
from glmc_runtime.record.layers import layer_of, layers_from


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        ("model.layers.3.mlp.gate", 3),
        ("model.layers.12", 12),
        ("layers.0.self_attn", 0),
        ("model.norm", None),
        ("model.players.3", None),
        ("", None),
    ],
)
def test_the_layer_of_a_module(module: str, layer: int | None) -> None:
    assert layer_of(module) == layer


def test_a_range_of_layers_has_both_ends() -> None:
    assert layers_from("0, 3-5") == {0, 3, 4, 5}


@pytest.mark.parametrize("text", ["", "a", "5-3", "1,,2", "-1", "1-"])
def test_what_is_no_list_of_layers_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="no list of layers"):
        layers_from(text)

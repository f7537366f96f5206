"""Modules of two implementations are paired by their place, and not where it is ambiguous."""

from __future__ import annotations

import pytest

from glmc.check.align.module_tree import aligned_modules, layer_number, place_of


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("model.layers.0", "transformer.encoder.layers.0"),
        ("model.layers.3.self_attn.o_proj", "transformer.encoder.layers.3.self_attention.dense"),
        ("model.layers.3.mlp.down_proj", "transformer.encoder.layers.3.mlp.dense_4h_to_h"),
        ("model.embed_tokens", "transformer.embedding.word_embeddings"),
        ("model.norm", "transformer.encoder.final_layernorm"),
        ("lm_head", "transformer.output_layer"),
        ("visual.blocks.1.attn.proj", "blocks.1.attn.proj"),
        ("model.layers.2.mlp.experts.7.down_proj", "layers.2.mlp.experts.7.down_proj"),
    ],
)
def test_other_prefixes_and_spellings_are_one_place(expected: str, actual: str) -> None:
    assert aligned_modules([expected], [actual]) == {expected: actual}
    assert aligned_modules([actual], [expected]) == {actual: expected}


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("model.layers.0.mlp", "model.layers.1.mlp"),
        ("model.layers.0.mlp.experts.1.up_proj", "layers.0.mlp.experts.2.up_proj"),
        ("model.layers.0.input_layernorm", "layers.0.post_attention_layernorm"),
        ("model.norm", "lm_head"),
    ],
)
def test_other_places_are_not_one(expected: str, actual: str) -> None:
    assert not aligned_modules([expected], [actual])


def test_an_equal_path_is_the_module_itself() -> None:
    modules = ["model.layers.0.mlp", "mtp.layers.0.mlp"]
    assert aligned_modules(modules, modules) == dict(zip(modules, modules, strict=True))


def test_what_is_around_decides_between_two_towers() -> None:
    expected = ["text.layers.0.mlp", "text.layers.0.norm", "visual.blocks.0.mlp"]
    actual = ["t.h.0.mlp", "t.h.0.norm", "v.blocks.0.mlp"]
    # The norm shows which tower is which; the towers' MLPs follow.
    assert aligned_modules(expected, actual) == {
        "text.layers.0.norm": "t.h.0.norm",
        "text.layers.0.mlp": "t.h.0.mlp",
    }
    expected.append("visual.blocks.0.attn")
    actual.append("v.blocks.0.attn")
    assert aligned_modules(expected, actual)["visual.blocks.0.mlp"] == "v.blocks.0.mlp"


def test_without_anything_around_an_ambiguous_module_is_left_alone() -> None:
    assert not aligned_modules(["a.layers.0.mlp", "b.layers.0.mlp"], ["c.layers.0.mlp"])


def test_the_first_number_is_the_layer() -> None:
    assert layer_number("model.layers.17.mlp.experts.3.up_proj") == 17
    assert layer_number("transformer.h.2") == 2
    assert layer_number("model.norm") is None
    assert place_of("model.layers.17.mlp.router") == (17, ("mlp", "gate"))

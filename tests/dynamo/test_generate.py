"""``model.generate`` with the compiled forward: the tokens of eager code, in few graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from tests.dynamo.compiled import KINDS, breaks, fusions, layer_of, prompt, watched

pytestmark = pytest.mark.long

WAYS: dict[str, dict[str, Any]] = {
    "static": {"cache_implementation": "static"},
    "dynamic": {},
    "beams": {"num_beams": 3},
}
CASES = [(way, batch) for way in ("static", "dynamic") for batch in (1, 3)] + [("beams", 3)]
# Each way, and each kind that decodes over a static cache in no test of its own; learned positions
# with beams.
QUICK = {
    "glm4_moe": [("dynamic", 3)],
    "glm4": [],
    "glm": [("static", 3)],
    "llama": [("static", 1)],
    "gpt2": [("beams", 3)],
}
GRID = [
    pytest.param(kind, *case, marks=() if case in QUICK[kind] else pytest.mark.slow)
    for kind in KINDS
    for case in CASES
]


def compare(kind: str, way: str, batch: int) -> None:
    model = layer_of(kind)  # what a second layer adds is seen over a static cache
    ids = prompt(batch)
    mask = torch.ones_like(ids)
    if batch > 1:  # a ragged batch, padded on the left
        mask[0, :3], ids[0, :3] = 0, 0
    common = {"attention_mask": mask, "max_new_tokens": 12, "disable_compile": True}
    greedy = {"do_sample": False, **WAYS[way], **common}
    # Sampling is the program of the greedy way: nothing more is compiled for it.
    sampled = {"do_sample": True, "top_k": 20, **common} if way == "dynamic" else None

    def made() -> list[torch.Tensor]:
        torch.manual_seed(3)
        ways = [greedy] if sampled is None else [greedy, sampled]
        return [model.generate(ids, **keywords) for keywords in ways]

    expected = made()
    with watched() as graphs:
        model.forward = torch.compile(model.forward, backend="kunlun")
        found = made()
    assert all(map(torch.equal, found, expected))
    assert breaks() == 0
    # Prefill, decode, and one more once the dynamic cache has grown.
    assert len(graphs) == (2 if way == "static" else 3)
    layers = model.config.num_hidden_layers
    assert [fusions(graph)["attention"] for graph in graphs] == [layers] * len(graphs)


@pytest.mark.parametrize(("kind", "way", "batch"), GRID)
def test_the_tokens_are_those_of_eager_code(kind: str, way: str, batch: int) -> None:
    compare(kind, way, batch)


# Beams of several sequences, of another kind, are in the normal suite.
@pytest.mark.slow
def test_beams_of_one_sequence() -> None:
    compare("glm4_moe", "beams", 1)


def test_model_compile_is_the_same_road() -> None:
    model = layer_of("glm4")
    ids = prompt(1)
    keywords = {"max_new_tokens": 8, "cache_implementation": "static", "disable_compile": True}
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), **keywords)
    with watched() as graphs:
        model.compile(backend="kunlun")
        found = model.generate(ids, attention_mask=torch.ones_like(ids), **keywords)
    assert torch.equal(found, expected)
    assert len(graphs) == 2


def test_the_compile_that_generate_makes_itself() -> None:
    """On devices where it does; its configuration has a mode of Inductor by default."""
    model = layer_of("glm4")
    ids = prompt(1)
    keywords = {"max_new_tokens": 8, "cache_implementation": "static"}
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), **keywords)
    config = transformers.CompileConfig(backend="kunlun", mode="default")
    config._compile_all_devices = True
    with watched() as graphs:
        found = model.generate(
            ids, attention_mask=torch.ones_like(ids), compile_config=config, **keywords
        )
    assert torch.equal(found, expected)
    assert len(graphs) == 1  # decode


@pytest.mark.parametrize("dynamic", [True, pytest.param(None, marks=pytest.mark.slow)])
def test_dynamic(dynamic: bool | None) -> None:
    model = layer_of()
    forward = torch.compile(model.forward, backend="kunlun", dynamic=dynamic)
    with watched() as graphs, torch.no_grad():
        for length in (5, 9, 6):
            ids = prompt(2, length)
            torch.testing.assert_close(forward(ids).logits, model(ids).logits)
    assert len(graphs) == {True: 1, None: 2}[dynamic]


def test_every_length_alone() -> None:
    """``dynamic=False``; the graphs that are made are Dynamo's choice, so a part of a layer will
    do."""
    model: Any = layer_of("glm4")
    mlp = model.model.layers[0].mlp
    function = torch.compile(mlp, backend="kunlun", dynamic=False)
    with watched() as graphs, torch.no_grad():
        for length in (5, 9, 6):
            x = torch.randn(2, length, model.config.hidden_size)
            torch.testing.assert_close(function(x), mlp(x))
    assert len(graphs) == 3

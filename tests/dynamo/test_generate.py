"""``model.generate`` with the compiled forward: the tokens of eager code, in few graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.dynamo.compiled import KINDS, breaks, fusions, model_of, prompt, watched

WAYS: dict[str, dict[str, Any]] = {
    "static": {"cache_implementation": "static"},
    "dynamic": {},
    "sampling": {"do_sample": True, "top_k": 20},
    "beams": {"num_beams": 3},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_tokens_are_those_of_eager_code(kind: str, way: str, batch: int) -> None:
    model = model_of(kind)
    ids = prompt(batch)
    mask = torch.ones_like(ids)
    if batch > 1:  # a ragged batch, padded on the left
        mask[0, :3], ids[0, :3] = 0, 0
    keywords = {"max_new_tokens": 12, "do_sample": False, **WAYS[way], "disable_compile": True}
    torch.manual_seed(3)
    expected = model.generate(ids, attention_mask=mask, **keywords)
    with watched() as graphs:
        model.forward = torch.compile(model.forward, backend="kunlun")
        torch.manual_seed(3)
        found = model.generate(ids, attention_mask=mask, **keywords)
    assert torch.equal(found, expected)
    assert breaks() == 0
    # Prefill, decode, and one more once the dynamic cache has grown.
    assert len(graphs) == (2 if way == "static" else 3)
    layers = model.config.num_hidden_layers
    assert [fusions(graph)["attention"] for graph in graphs] == [layers] * len(graphs)


def test_model_compile_is_the_same_road() -> None:
    model = model_of("glm4_moe")
    ids = prompt(1)
    keywords = {"max_new_tokens": 8, "cache_implementation": "static", "disable_compile": True}
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), **keywords)
    with watched() as graphs:
        model.compile(backend="kunlun")
        found = model(ids).logits
        model.generate(ids, attention_mask=torch.ones_like(ids), **keywords)
    assert torch.equal(found.argmax(-1)[:, -1], expected[:, 7])
    assert len(graphs) == 3


@pytest.mark.parametrize("dynamic", [True, False, None])
def test_dynamic(dynamic: bool | None) -> None:
    model = model_of("glm4_moe")
    forward = torch.compile(model.forward, backend="kunlun", dynamic=dynamic)
    with watched() as graphs, torch.no_grad():
        for length in (5, 9, 13, 6):
            ids = prompt(2, length)
            torch.testing.assert_close(forward(ids).logits, model(ids).logits)
    assert len(graphs) == {True: 1, False: 4, None: 2}[dynamic]

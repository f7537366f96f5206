"""Decode over a static cache: one graph, all fusions, the answers of eager code."""

from __future__ import annotations

import pytest
import torch

from bench.hugging_face import with_cache
from glmc.dynamo.backend import CompiledGraph
from glmc.pipeline.runner import fuse
from tests.dynamo.compiled import (
    KINDS,
    breaks,
    decode,
    fusions,
    layer_of,
    model_of,
    prompt,
    static_cache,
    watched,
)
from tests.support.models import captured
from tests.support.thinned import thinned

pytestmark = pytest.mark.long

COUNTED = ("rms_norm", "rope", "qk_norm", "attention", "moe_gate", "moe_ffn", "gate_up_merge")
COUNTED += ("qkv_merge", "shared_expert", "add_rms_norm", "silu_mul")


def run(
    kind: str,
    steps: int,
    experts: str = "batched_mm",
    attention: str = "sdpa",
    batch: int = 1,
    **overrides: int,
) -> tuple[torch.Tensor, torch.Tensor, list[CompiledGraph]]:
    model = model_of(kind, experts, attention, **overrides)
    length = 8 + steps
    expected = decode(model, model.forward, steps, static_cache(model, length), prompt(batch))
    with watched() as graphs:
        forward = torch.compile(model.forward, backend="kunlun", fullgraph=True)
        found = decode(model, forward, steps, static_cache(model, length), prompt(batch))
    return expected, found, graphs


# Kinds that generate with another cache in a test of their own are not repeated here.
QUICK = (("glm4_moe", 2), ("gpt2", 1))


@pytest.mark.parametrize(
    ("kind", "batch"),
    [
        pytest.param(kind, batch, marks=() if (kind, batch) in QUICK else pytest.mark.slow)
        for kind in KINDS
        for batch in (1, 2)
    ],
)
def test_float32_tokens_are_identical_over_64_steps(kind: str, batch: int) -> None:
    expected, found, graphs = run(kind, 64, batch=batch)
    assert torch.equal(expected.argmax(-1), found.argmax(-1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(graphs) == 1


@pytest.mark.parametrize(
    ("experts", "attention"),
    [
        ("batched_mm", "sdpa"),
        pytest.param("grouped_mm", "eager", marks=pytest.mark.slow),
        pytest.param("batched_mm", "eager", marks=pytest.mark.slow),
        pytest.param("grouped_mm", "sdpa", marks=pytest.mark.slow),
    ],
)
def test_every_fusion_of_the_artifact_road_fires(experts: str, attention: str) -> None:
    """One layer with experts stands after another."""
    layers = {"num_hidden_layers": 2, "first_k_dense_replace": 0}
    model = model_of("glm4_moe", experts, attention, **layers)
    records = fuse(captured(model.config))
    wanted = {record.name: len(record.matches) for record in records}
    _, _, graphs = run("glm4_moe", 2, experts, attention, **layers)
    (graph,) = graphs
    found = fusions(graph)
    assert {name: found[name] for name in COUNTED} == {name: wanted[name] for name in COUNTED}
    assert wanted["moe_ffn"] > 0
    assert [miss for record in graph.records for miss in record.near_misses] == []


# Glm has no norm that Glm4 lacks.
@pytest.mark.parametrize("kind", thinned(["glm4", "glm"], ["glm"]))
def test_every_fusion_fires_in_dense_models(kind: str) -> None:
    model = model_of(kind)
    wanted = {record.name: len(record.matches) for record in fuse(captured(model.config))}
    _, _, (graph,) = run(kind, 2)
    found = fusions(graph)
    assert {name: found[name] for name in COUNTED} == {name: wanted[name] for name in COUNTED}


def test_200_steps_recompile_nothing() -> None:
    model = layer_of("glm4")
    cache = static_cache(model, 256)
    with watched() as graphs:
        forward = torch.compile(model.forward, backend="kunlun", fullgraph=True)
        decode(model, forward, 200, cache, prompt(1))
    assert len(graphs) == 1
    assert breaks() == 0
    assert graphs[0].replay.calls == 200
    assert graphs[0].replay.replanned == 1
    assert graphs[0].replay.bindings == len(graphs[0].plan.calls)


def test_a_growing_dynamic_cache_makes_one_more_program() -> None:
    import transformers

    model = layer_of("glm4")
    cache = transformers.DynamicCache(config=model.config)
    expected = decode(
        model, model.forward, 40, transformers.DynamicCache(config=model.config), prompt(1)
    )
    with watched() as graphs:
        forward = torch.compile(model.forward, backend="kunlun", fullgraph=True)
        found = decode(model, forward, 40, cache, prompt(1))
    assert torch.equal(expected.argmax(-1), found.argmax(-1))
    assert [graph.replay.calls for graph in graphs] == [1, 39]
    assert graphs[1].replay.replanned <= 4  # only at powers of two


# The mixture has all roundings of a dense model and those of its router.
@pytest.mark.parametrize("kind", thinned(["glm4_moe", "glm4"], ["glm4"]))
def test_bfloat16_is_as_near_to_float32_as_eager_bfloat16(kind: str) -> None:
    exact = model_of(kind)
    model = model_of(kind, dtype=torch.bfloat16)
    ids = prompt(4)
    steps = 6
    truth = decode(exact, exact.forward, 0, static_cache(exact), ids)
    tokens = [truth.argmax(-1)]
    forward = torch.compile(model.forward, backend="kunlun", fullgraph=True)
    torch._dynamo.reset()
    errors = {"eager": 0.0, "kunlun": 0.0}
    caches = {name: static_cache(model) for name in errors}
    cache = static_cache(exact)
    with torch.no_grad():
        exact(ids, **with_cache(cache))
        for name in errors:
            model(ids, **with_cache(caches[name]))
        for _ in range(steps):
            step = {"input_ids": tokens[-1]}
            wanted = exact(**with_cache(cache), **step).logits
            for name, call in (("eager", model.forward), ("kunlun", forward)):
                got = call(**with_cache(caches[name]), **step).logits
                errors[name] += float((got.float() - wanted).square().mean())
            tokens.append(wanted.argmax(-1))
    assert errors["kunlun"] ** 0.5 <= 1.25 * errors["eager"] ** 0.5

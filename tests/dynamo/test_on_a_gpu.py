"""``torch.compile`` on a real device: tokens of eager code, and when its graphs are captured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from tests.dynamo.compiled import (
    breaks,
    decode,
    fusions,
    model_of,
    prompt,
    static_cache,
    watched,
)

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
WAYS: dict[str, dict[str, Any]] = {
    "static": {"cache_implementation": "static"},
    "dynamic": {},
    "beams": {"num_beams": 3},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["glm4_moe", "glm4", "glm", "llama"])
def test_generate_gives_the_tokens_of_eager_code(kind: str, way: str) -> None:
    model = model_of(kind, **({"num_hidden_layers": 2} if kind != "llama" else {})).cuda()
    ids = prompt(3).cuda()
    mask = torch.ones_like(ids)
    mask[0, :3], ids[0, :3] = 0, 0
    keywords = {"max_new_tokens": 12, "disable_compile": True, "do_sample": False, **WAYS[way]}
    expected = model.generate(ids, attention_mask=mask, **keywords)
    with watched() as graphs:
        model.forward = torch.compile(model.forward, backend="kunlun")
        found = model.generate(ids, attention_mask=mask, **keywords)
    assert torch.equal(found, expected)
    assert breaks() == 0
    assert {graph.target for graph in graphs} == {"cuda"}
    assert all(graph.replay.graph.failure is None for graph in graphs)
    if way == "static":
        assert graphs[-1].replay.graph.replays > 0


def test_the_compile_that_generate_makes_itself() -> None:
    model = model_of("glm4_moe", num_hidden_layers=2).cuda()
    ids = prompt(1).cuda()
    keywords = {"max_new_tokens": 12, "cache_implementation": "static", "do_sample": False}
    expected = model.generate(ids, disable_compile=True, **keywords)
    config = transformers.CompileConfig(backend="kunlun", mode="default")
    with watched() as graphs:
        found = model.generate(ids, compile_config=config, **keywords)
    assert torch.equal(found, expected)
    assert graphs and graphs[-1].replay.graph.replays > 0


def test_a_static_cache_is_one_graph_and_another_cache_another() -> None:
    model = model_of("glm4_moe", num_hidden_layers=2).cuda()
    ids, steps = prompt(2).cuda(), 12
    expected = decode(model, model.forward, steps, static_cache(model), ids)
    with watched() as graphs:
        forward = torch.compile(model.forward, backend="kunlun", fullgraph=True)
        for number in (1, 2, 3):
            found = decode(model, forward, steps, static_cache(model), ids)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
            (graph,) = graphs
            assert graph.replay.graph.failure is None
            assert graph.replay.graph.captures == number
            assert graph.replay.graph.replays == number * (steps - 3)


@pytest.mark.parametrize("experts", ["batched_mm", "grouped_mm"])
def test_one_step_in_bfloat16(experts: str) -> None:
    """transformers writes some of its experts otherwise for a GPU than for a CPU."""
    model = model_of("glm4_moe", experts, num_hidden_layers=2, dtype=torch.bfloat16).cuda()
    ids = prompt(2).cuda()
    expected = decode(model, model.forward, 1, static_cache(model), ids)
    with watched() as graphs:
        forward = torch.compile(model.forward, backend="kunlun", fullgraph=True)
        found = decode(model, forward, 1, static_cache(model), ids)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)
    merged = fusions(graphs[0])
    assert merged["moe_gate"] == merged["moe_ffn"] == merged["moe_ffn_shared"] == 1
    assert merged["attention"] == merged["linear_swiglu"] + 1 == 2


def test_calls_on_two_streams_wait_for_each_other() -> None:
    with watched():
        grow = torch.compile(lambda x: (x @ x / 512).cumsum(0).softmax(1) @ x, backend="kunlun")
        eager = [torch.rand(512, 512, device="cuda") for _ in range(2)]
        expected = [(x @ x / 512).cumsum(0).softmax(1) @ x for x in eager]
        grow(eager[0])
        torch.cuda.synchronize()
        streams = [torch.cuda.Stream() for _ in range(2)]
        found = []
        for turn in range(20):
            with torch.cuda.stream(streams[turn % 2]):
                found.append(grow(eager[turn % 2]))
        torch.cuda.synchronize()
    for turn, one in enumerate(found):
        torch.testing.assert_close(one, expected[turn % 2], rtol=1e-4, atol=1e-4)


def test_a_graph_of_the_caller_outlives_the_arena() -> None:
    """What the caller captured goes on computing when the function has moved to other memory."""
    with watched():
        double = torch.compile(lambda x: (x * 2).cumsum(0) + 1, backend="kunlun", dynamic=True)
        x = torch.ones(4, device="cuda")
        for _ in range(2):
            double(x)
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            double(x)
            with torch.cuda.graph(graph, stream=stream):
                y = double(x)
        torch.cuda.current_stream().wait_stream(stream)
        double(torch.ones(1 << 20, device="cuda"))  # another arena
        torch.cuda.empty_cache()
        junk = torch.full((1 << 22,), 7.0, device="cuda")
        for start in (1.0, 5.0):
            x.fill_(start)
            graph.replay()
            torch.testing.assert_close(y, (x * 2).cumsum(0) + 1)
        assert (junk == 7).all()


def test_values_in_host_memory_and_results_there() -> None:
    with watched() as graphs:
        mixed = torch.compile(
            lambda x, n: (x * n, (x + n).cpu(), x[torch.tensor([2, 0])]), backend="kunlun"
        )
        for step in range(6):
            x = torch.full((3,), float(step), device="cuda")
            found = mixed(x, torch.tensor(2.0 + step))
            expected = x * (2.0 + step), (x + (2.0 + step)).cpu(), x[torch.tensor([2, 0])]
            for one, other in zip(found, expected, strict=True):
                assert one.device == other.device
                torch.testing.assert_close(one, other)
    graph = graphs[-1].replay.graph
    assert (graph.captures, graph.replays, graph.failure) == (1, 3, None)

"""Target cuda under Triton's interpreter: a traced program's own rules, and who may ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from glmc.backends.cuda.dynamo_rules import traced_rules
from glmc.dynamo.backend import CompiledGraph
from glmc.lowering.target import Op, Unsupported, Value, fixed
from glmc_runtime.errors import GlmcError
from glmc_runtime.format.plan import BufferArgument, WeightArgument
from glmc_runtime.kernels import interpreter
from glmc_runtime.kernels.interpreter import INTERPRETED_NOTICE, say_interpreted
from tests.dynamo.compiled import decode, fusions, layer_of, model_of, prompt, static_cache, watched
from tests.support.interpreted import quick_interpreter
from tests.support.thinned import thinned

pytestmark = pytest.mark.long

CUDA: dict[str, Any] = {"backend": "kunlun", "fullgraph": True, "options": {"target": "cuda"}}


@pytest.fixture(autouse=True, scope="module")
def _quick_interpreter() -> Iterator[None]:
    with quick_interpreter():
        yield


def called(graph: CompiledGraph) -> set[str]:
    return {call.function for call in graph.plan.calls}


# Glm4 has the norms after a branch; Glm is spelled as the dense layers of the mixture.
@pytest.mark.parametrize("kind", thinned(["glm4_moe", "glm4", "glm"], ["glm"]))
def test_decode_gives_the_tokens_of_eager_code(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    say_interpreted.cache_clear()
    model = model_of(kind, num_hidden_layers=2)
    expected = decode(model, model.forward, 3, static_cache(model, 16), prompt(2))
    with watched() as graphs:
        forward = torch.compile(model.forward, **CUDA)
        found = decode(model, forward, 3, static_cache(model, 16), prompt(2))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert capsys.readouterr().err.count(INTERPRETED_NOTICE) == 1
    (graph,) = graphs
    assert {"cuda.rope", "cuda.masked_attention", "cuda.linear_swiglu"} <= called(graph)
    assert not any(function.startswith("cpu.") for function in called(graph))
    merged = fusions(graph)
    experts = 1 if kind == "glm4_moe" else 0
    assert merged["moe_ffn_shared"] == merged["moe_ffn"] == experts
    assert merged["linear_swiglu"] == 2 - experts
    assert merged["norm_add_rms_norm"] == (4 if kind == "glm4" else 0)


def test_a_model_cast_whole_to_bfloat16() -> None:
    model = layer_of().to(torch.bfloat16)  # buffers as well
    expected = decode(model, model.forward, 1, static_cache(model, 16), prompt(1))
    with watched() as graphs:
        forward = torch.compile(model.forward, **CUDA)
        found = decode(model, forward, 1, static_cache(model, 16), prompt(1))
    assert {"cuda.rms_norm", "cuda.rope"} <= called(graphs[0])
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)


def test_an_id_outside_of_the_vocabulary_is_an_error_as_in_eager_code() -> None:
    """Nobody has checked the ids of a program, and our own kernel would give NaN."""
    model = torch.nn.Sequential(torch.nn.Embedding(20, 16), torch.nn.Linear(16, 8))
    model.requires_grad_(False)
    with watched() as graphs:
        forward = torch.compile(model, **CUDA)
        ids = torch.tensor([3, 19])
        torch.testing.assert_close(forward(ids), model(ids))
    assert "aten.embedding" in called(graphs[0])
    for wrong in (20, -1):
        with pytest.raises(GlmcError, match="index out of range"):
            forward(torch.tensor([3, wrong]))


def test_a_weight_that_is_none_is_declined() -> None:
    """Kernels read their weights before the one in front has ended."""
    rule = traced_rules({"linear": lambda op, emit: None})["linear"]
    emit: Any = None
    for argument, declined in ((WeightArgument("w"), False), (BufferArgument(1), True)):
        shape = (fixed(4), fixed(4))
        x = Value("x", shape, torch.float32, BufferArgument(0))
        weight = replace(x, name="w", argument=argument)
        op = Op("linear", "n", "", None, {"x": x, "weight": weight, "bias": None}, "traced")
        rule(replace(op, phase="decode"), emit)
        with pytest.raises(Unsupported, match="'weight'") if declined else nullcontext():
            rule(op, emit)


def test_a_mix_of_dtypes_is_declined() -> None:
    rule = traced_rules({"rms_norm": lambda op, emit: None})["rms_norm"]
    emit: Any = None
    x = Value("x", (fixed(4), fixed(4)), torch.bfloat16, BufferArgument(0))
    weight = Value("w", (fixed(4),), torch.float32, WeightArgument("w"))
    with pytest.raises(Unsupported, match="bfloat16, float32"):
        rule(Op("rms_norm", "n", "", None, {"x": x, "weight": weight, "eps": 1e-5}, "traced"), emit)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_dtype_without_kernels_is_left_to_aten(target: str) -> None:
    model = layer_of().to(torch.float64)
    expected = decode(model, model.forward, 2, static_cache(model, 16), prompt(1))
    with watched() as graphs:
        forward = torch.compile(model.forward, backend="kunlun", options={"target": target})
        found = decode(model, forward, 2, static_cache(model, 16), prompt(1))
    torch.testing.assert_close(found, expected)
    (graph,) = graphs
    assert any("no kernel for float64" in remark for remark in graph.plan.remarks)


def test_without_a_gpu_and_an_interpreter_the_error_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(interpreter.VARIABLE)
    torch._dynamo.reset()
    with pytest.raises(Exception, match=r"(?s)torch sees no GPU.*TRITON_INTERPRET=1"):
        torch.compile(lambda x: x + 1, **CUDA)(torch.ones(2))

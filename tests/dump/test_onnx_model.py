"""ONNX files are checked by onnx and, where every op has a meaning there, run by its reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from glmc.dump.onnx_functions import DOMAIN, OPSET, body
from glmc.dump.onnx_model import Builder, part_model
from glmc.dump.parts import part_of
from glmc.ir.ops import OPS
from tests.dump.steps import cut, steps


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X, Y = random(3, 5, 8), random(3, 5, 8, seed=1)
WEIGHT, BIAS, NORM = random(6, 8, seed=2), random(6, seed=3), random(8, seed=4)
IDS = torch.tensor([[1, 5, 0], [2, 2, 3]])
CASES: dict[str, tuple[tuple[Tensor, ...], dict[str, float]]] = {
    "rms_norm": ((X, NORM), {"eps": 1e-3}),
    "add_rms_norm": ((X, Y, NORM), {"eps": 1e-3}),
    "swiglu": ((X,), {}),
    "silu_mul": ((X, Y), {}),
    "linear": ((X, WEIGHT), {}),
    "linear_bias": ((X, WEIGHT, BIAS), {}),
    "embedding": ((IDS, WEIGHT), {}),
    "select_rows": ((X[0], torch.tensor([4, 0])), {}),
    "shared_expert": ((X, random(12, 8, seed=5), random(8, 6, seed=6), Y), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_body_means_what_the_op_means(name: str) -> None:
    tensors, attributes = CASES[name]
    function = body(name)
    node = onnx.helper.make_node(
        name, list(function.input), list(function.output), domain=DOMAIN, **attributes
    )
    infos = [onnx.helper.make_empty_tensor_value_info(each) for each in function.output]
    given = [
        onnx.helper.make_tensor_value_info(each, 7 if tensor.dtype == torch.int64 else 1, None)
        for each, tensor in zip(function.input, tensors, strict=True)
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "one", given, infos),
        functions=[function],
        opset_imports=[onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(DOMAIN, 1)],
    )
    feed = {each: tensor.numpy() for each, tensor in zip(function.input, tensors, strict=True)}
    results = ReferenceEvaluator(model).run(None, feed)
    reference: Callable[..., Any] = OPS[name.removesuffix("_bias")].reference
    extra = (None,) if name == "linear" else tuple(attributes.values())
    expected = reference(*tensors, *extra)
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert len(results) == len(expected)
    for found, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "family",
    ["glm4_moe", *(pytest.param(each, marks=pytest.mark.slow) for each in ("glm", "glm4"))],
)
def test_every_step_passes_the_checker_and_repeats_itself(family: str) -> None:
    for program in steps(family).values():
        values, made = cut(program)
        for block in made:
            data = part_model(block, values)
            onnx.checker.check_model(data)
            assert data == part_model(block, values)


def test_what_lies_outside_the_layers_runs_in_the_reference_evaluator() -> None:
    """Embedding, last norm, choice of rows and head, against the same functions in torch."""
    program = steps("glm4")["prefill"]
    values, made = cut(program)
    part = part_of(made[0])
    model = Builder(part, values).model()
    assert {function.name for function in model.functions} >= {"embedding", "linear", "select_rows"}
    weights = {
        node: random(*values.shape(node.meta["val"]), seed=index)
        for index, node in enumerate(part.inputs)
        if node.meta["val"].is_floating_point()
    }
    whole = {"token_ids": torch.tensor([3, 1, 2, 0]), "last_rows": torch.tensor([0, 3])}
    given = {node: weights[node] if node in weights else whole[node.name] for node in part.inputs}
    found = run_by_torch(part, given)
    feed = {part.names[node]: value.numpy() for node, value in given.items()}
    results = ReferenceEvaluator(model).run(None, feed)
    assert len(results) == len(part.outputs) == 2
    for result, node in zip(results, part.outputs, strict=True):
        torch.testing.assert_close(torch.from_numpy(result), found[node], rtol=1e-4, atol=1e-5)


def test_a_feed_forward_of_aten_and_glmc_ops_runs_in_the_reference_evaluator() -> None:
    """The calls of a dense layer behind its attention, as they stand before silu is merged."""
    from glmc.dump.blocks import Block

    program = steps("glm4")["qkv_merge"]
    values, made = cut(program)
    layer = next(block for block in made if block.layer == 0)
    calls = [node for node in layer.nodes if node.op == "call_function"]
    start = next(index for index, node in enumerate(calls) if "o_proj#linear" in node.meta["id"])
    part = part_of(Block(0, tuple(calls[start:]), ()))
    model = Builder(part, values).model()
    assert not [node for node in model.graph.node if node.domain == "aten"]
    given = {
        node: random(*values.shape(node.meta["val"]), seed=index)
        for index, node in enumerate(part.inputs)
    }
    found = run_by_torch(part, given)
    feed = {part.names[node]: value.numpy() for node, value in given.items()}
    (result,) = ReferenceEvaluator(model).run(None, feed)
    expected = found[part.outputs[0]]
    torch.testing.assert_close(torch.from_numpy(result), expected, rtol=1e-4, atol=1e-4)


def test_what_onnx_cannot_say_stays_an_op_of_ours_without_a_body() -> None:
    values, made = cut(steps("glm4_moe")["decode"])
    model = Builder(part_of(made[-1]), values).model()
    bodies = {function.name for function in model.functions}
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    assert {"moe_gate", "decode_attention"} <= used - bodies
    assert {"linear", "add_rms_norm"} <= bodies
    gate = next(node for node in model.graph.node if node.op_type == "moe_gate")
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in gate.attribute}
    assert attributes["top_k"] == 2 and attributes["scale"] == 2.5 and attributes["normalize"] == 1
    assert "layers." in gate.doc_string and "modeling_glm4_moe.py" in gate.doc_string


def run_by_torch(part: Any, given: dict[Any, Tensor]) -> dict[Any, Any]:
    found: dict[Any, Any] = dict(given)
    for node in part.calls:
        arguments = torch.fx.node.map_arg((node.args, dict(node.kwargs)), lambda item: found[item])
        found[node] = node.target(*arguments[0], **arguments[1])
    return found

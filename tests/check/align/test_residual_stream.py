"""A residual stream in two tensors is compared as their sum, and nothing else is added up."""

from __future__ import annotations

import torch

from glmc.check.align.compare import align
from glmc.check.align.pairing import MODULE
from glmc.check.align.result import Alignment, Verdict
from tests.check.align.memory_record import MemoryRecord

FACTS = {"tool": "glmc", "dtype": "bfloat16"}
TOKENS, HIDDEN = 6, 32


def stock_and_vllm(wrong: bool = False) -> tuple[MemoryRecord, MemoryRecord]:
    """Two layers, each a norm and an MLP, as Hugging Face has them and as vLLM has."""
    stock, vllm = MemoryRecord("stock", FACTS), MemoryRecord("vllm", FACTS)
    made = torch.Generator().manual_seed(1)

    def value() -> torch.Tensor:
        return torch.randn(TOKENS, HIDDEN, generator=made).bfloat16()

    result, residual = value(), None
    for layer in range(2):
        name = f"model.layers.{layer}"
        total = result if residual is None else result + residual
        stock.add(f"{name}.Glm4DecoderLayer.{layer}.forward_input.hidden_states", total[None])
        vllm.add(f"{name}.DecoderLayer.{layer}.forward_input.0", torch.arange(TOKENS))
        vllm.add(f"{name}.DecoderLayer.{layer}.forward_input.1", result)
        if residual is not None:
            vllm.add(f"{name}.DecoderLayer.{layer}.forward_input.2", residual)
        stock.add(f"{name}.input_layernorm.Glm4RMSNorm.0.forward_input.0", total[None])
        vllm.add(f"{name}.input_layernorm.RMSNorm.0.forward_input.0", result)
        if residual is not None:
            vllm.add(f"{name}.input_layernorm.RMSNorm.0.forward_input.1", residual)
        normed = total * 2
        stock.add(f"{name}.input_layernorm.Glm4RMSNorm.0.forward_output.0", normed[None])
        vllm.add(f"{name}.input_layernorm.RMSNorm.0.forward_output.0", normed)
        vllm.add(f"{name}.input_layernorm.RMSNorm.0.forward_output.1", total)
        result, residual = value(), total
        ours = result * 1.5 if wrong and layer else result
        stock.add(f"{name}.mlp.Glm4MLP.0.forward_output.0", result[None])
        vllm.add(f"{name}.mlp.MLP.0.forward_output.0", ours)
        stock.add(f"{name}.Glm4DecoderLayer.{layer}.forward_output.0", (result + residual)[None])
        vllm.add(f"{name}.DecoderLayer.{layer}.forward_output.0", ours)
        vllm.add(f"{name}.DecoderLayer.{layer}.forward_output.1", residual)
    return stock, vllm


def names(found: Alignment) -> dict[str, str]:
    also = {other: each.other_name for each in found.values for other in each.also}
    return {**{each.name: each.other_name for each in found.values}, **also}


def test_what_a_layer_takes_and_returns_is_the_sum_of_both() -> None:
    found = align(*stock_and_vllm())
    assert {each.verdict for each in found.values} == {Verdict.OK}
    assert {each.paired_by for each in found.values} == {MODULE}
    pairs = names(found)
    assert len(pairs) == 10
    layer = "model.layers.1"
    assert pairs[f"{layer}.Glm4DecoderLayer.1.forward_output.0"].endswith("forward_output.0 + 1")
    assert pairs[f"{layer}.input_layernorm.Glm4RMSNorm.0.forward_output.0"].endswith("output.0")
    assert found.unpaired[0] == ()
    assert all(name.endswith(("forward_output.1", "input.0")) for name in found.unpaired[1])


def test_either_side_may_have_two_and_a_fault_is_still_found() -> None:
    stock, vllm = stock_and_vllm()
    found = align(vllm, stock)
    assert {each.verdict for each in found.values} == {Verdict.OK} and len(names(found)) == 10
    first = align(*stock_and_vllm(wrong=True)).first
    assert first is not None and first.name == "model.layers.1.mlp.Glm4MLP.0.forward_output.0"


def test_two_tensors_of_anything_else_are_ambiguous_and_left_alone() -> None:
    stock, vllm = MemoryRecord("stock", FACTS), MemoryRecord("vllm", FACTS)
    value = torch.randn(TOKENS, HIDDEN)
    stock.add("model.layers.0.mlp.experts.Experts.0.forward_output.0", value)
    vllm.add("model.layers.0.mlp.experts.FusedMoE.0.forward_output.0", value * 3)
    vllm.add("model.layers.0.mlp.experts.FusedMoE.0.forward_output.1", value)
    found = align(stock, vllm)
    assert not found.values
    assert [len(side) for side in found.unpaired] == [1, 2]


def test_sums_of_statistics_alone_are_not_known() -> None:
    stock, vllm = MemoryRecord("stock", FACTS), MemoryRecord("vllm", FACTS)
    value = torch.randn(TOKENS, HIDDEN)
    stock.add("model.layers.1.Glm4DecoderLayer.1.forward_output.0", value)
    for name in "01":
        key = f"model.layers.1.DecoderLayer.1.forward_output.{name}"
        vllm.add(key, value, keep="statistics")
    assert not align(stock, vllm).values

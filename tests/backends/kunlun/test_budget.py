"""Whole decode layers through all rules: the numbers, and how many calls a layer may cost."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from glmc.lowering.target import SEQUENCES, TOKENS, Value, fixed
from tests.backends.kunlun.harness import (
    PROFILES,
    Bench,
    Counts,
    close,
    options,
    random,
    reference,
    tokens_by,
)

ROWS, REAL, HIDDEN, D, HEADS, KV_HEADS, WIDTH, EXPERTS, TOP_K = 4, 3, 64, 32, 2, 1, 32, 8, 2
DENSE_BUDGET, MOE_BUDGET = 12, 20
FLOAT = torch.float32


class Layer:
    """Lowers ops one after the other and keeps the reference's tensors beside the values."""

    def __init__(self, profile: str) -> None:
        self.at = Bench(options(profile), Counts(ROWS, ROWS), Counts(REAL, REAL))
        self.expected: dict[int, Tensor] = {}
        self.kept: list[Value] = []
        self.number = 0

    def keep(self, value: Value, data: Tensor) -> Value:
        self.expected[id(value)] = data
        self.kept.append(value)
        return value

    def weight(self, *shape: int, scale: float = 0.3) -> Value:
        self.number += 1
        data = random(*shape, seed=self.number) * scale
        return self.keep(self.at.packed(f"weight{self.number}", data), data)

    def step(self, name: str, data: Tensor, shape: Any) -> Value:
        return self.keep(self.at.step(name, data, shape), data)

    def op(self, name: str, results: list[Any], **arguments: Any) -> list[Value]:
        given = {
            key: self.expected[id(item)] if isinstance(item, Value) else item
            for key, item in arguments.items()
        }
        wanted = reference(name, **given)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        shapes = [(shape, data.dtype) for shape, data in zip(results, wanted, strict=True)]
        outs = self.at.lower(name, arguments, shapes)
        return [self.keep(out, data) for out, data in zip(outs, wanted, strict=True)]

    def one(self, name: str, width: int, **arguments: Any) -> Value:
        return self.op(name, [tokens_by(width)], **arguments)[0]

    def linear(self, x: Value, wide: int, narrow: int, biased: bool = False) -> Value:
        bias = self.weight(wide) if biased else None
        weight = self.weight(wide, narrow)
        return self.one("linear", wide, x=x, weight=weight, bias=bias)

    def add_norm(self, x: Value, residual: Value) -> list[Value]:
        shapes = [tokens_by(HIDDEN)] * 2
        norm = self.weight(HIDDEN, scale=1.0)
        return self.op("add_rms_norm", shapes, x=x, residual=residual, weight=norm, eps=1e-5)

    def norm(self, x: Value) -> Value:
        weight = self.weight(HIDDEN, scale=1.0)
        return self.one("rms_norm", HIDDEN, x=x, weight=weight, eps=1e-5)

    def start(self) -> list[Value]:
        values = []
        for name in ("branch", "residual"):
            data = random(ROWS, HIDDEN, seed=len(name))
            values.append(self.keep(self.at.tensor(name, data, tokens_by(HIDDEN)), data))
        return values

    def attention(self, x: Value, normed: bool, interleaved: bool) -> Value:
        width = (HEADS + 2 * KV_HEADS) * D
        tables = torch.tensor([[1], [2], [3], [0]], dtype=torch.int32)
        frequencies = 100.0 ** (-torch.arange(8) / 8)
        caches = [random(5, KV_HEADS, 16, D, seed=seed) for seed in (3, 4)]
        heads = (TOKENS, fixed(HEADS), fixed(D))
        q, k_cache, v_cache = self.op(
            "qkv_rope_cache",
            [heads, (), ()],
            qkv=self.linear(x, width, HIDDEN, biased=True),
            q_norm=self.weight(D, scale=1.0) if normed else None,
            k_norm=self.weight(D, scale=1.0) if normed else None,
            positions=self.step("positions", torch.tensor([9, 0, 15, 0]), (TOKENS,)),
            inverse_frequencies=self.keep(self.at.constant("rope", frequencies), frequencies),
            slot_mapping=self.step("slot_mapping", torch.tensor([25, 32, 63, 0]), (TOKENS,)),
            k_cache=self.keep(self.at.cache("k", caches[0].clone()), caches[0]),
            v_cache=self.keep(self.at.cache("v", caches[1].clone()), caches[1]),
            q_heads=HEADS,
            kv_heads=KV_HEADS,
            head_dim=D,
            interleaved=interleaved,
            rope_scaling=1.0,
            norm_eps=1e-5,
        )
        lengths = torch.tensor([10, 1, 16, 1], dtype=torch.int32)
        [attended] = self.op(
            "decode_attention",
            [heads],
            q=q,
            k_cache=k_cache,
            v_cache=v_cache,
            block_tables=self.step("block_tables", tables, (SEQUENCES, fixed(1))),
            context_lengths=self.step("context_lengths", lengths, (SEQUENCES,)),
            scale=D**-0.5,
        )
        flat = Value(attended.name, tokens_by(HEADS * D), FLOAT, attended.argument)
        self.keep(flat, self.expected[id(attended)].flatten(1))
        return self.linear(flat, HIDDEN, HEADS * D)

    def mlp(self, x: Value) -> Value:
        both = self.linear(x, 2 * WIDTH, HIDDEN)
        return self.linear(self.one("swiglu", WIDTH, x=both), HIDDEN, WIDTH)

    def moe(self, x: Value, normalize: bool) -> Value:
        choice = (TOKENS, fixed(TOP_K))
        weights, ids = self.op(
            "moe_gate",
            [choice, choice],
            x=x,
            weight=self.weight(EXPERTS, HIDDEN),
            bias=self.weight(EXPERTS),
            top_k=TOP_K,
            groups=1,
            top_groups=1,
            group_fill=0.0,
            normalize=normalize,
            normalize_eps=1e-20,
            scale=2.5,
        )
        gate_up, down = self.weight(EXPERTS, 2 * WIDTH, HIDDEN), self.weight(EXPERTS, HIDDEN, WIDTH)
        routed = self.one(
            "moe_ffn", HIDDEN, x=x, weights=weights, ids=ids, gate_up=gate_up, down=down
        )
        gate_up, down = self.weight(2 * WIDTH, HIDDEN), self.weight(HIDDEN, WIDTH)
        return self.one("shared_expert", HIDDEN, x=x, gate_up=gate_up, down=down, routed=routed)

    def check(self, *outs: Value) -> Counter[str]:
        calls = self.at.run()
        for out in outs:
            close(self.at.read(out, real=True), self.expected[id(out)][:REAL])
            assert self.at.read(out).isfinite().all(), "padded rows must stay finite"
        return calls


def vendor_calls(calls: Counter[str]) -> int:
    """Products count as vendor calls, wherever torch sends them; other helpers do not."""
    return sum(
        count
        for name, count in calls.items()
        if name.startswith("kunlun_ops.") or name == "aten.linear"
    )


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("sandwich", [False, True])
def test_a_dense_layer(profile: str, sandwich: bool) -> None:
    """GLM-4 (interleaved rope, two norms more) and the dense layers of GLM-4.5 (norm of heads)."""
    layer = Layer(profile)
    normed, residual = layer.add_norm(*layer.start())
    branch = layer.attention(normed, normed=not sandwich, interleaved=sandwich)
    branch = layer.norm(branch) if sandwich else branch
    normed, residual = layer.add_norm(branch, residual)
    branch = layer.mlp(normed)
    branch = layer.norm(branch) if sandwich else branch
    calls = layer.check(branch, residual)
    assert vendor_calls(calls) == DENSE_BUDGET
    helpers = {"aten.split_columns": 1, "aten.zero": 1}
    assert {name: count for name, count in calls.items() if name in helpers} == helpers
    assert sum(calls.values()) == DENSE_BUDGET + 2
    assert sum(call.host for call in layer.at.calls) == 1, "only attention reads host memory"


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("normalize", [True, False])
def test_a_moe_layer(profile: str, normalize: bool) -> None:
    layer = Layer(profile)
    normed, residual = layer.add_norm(*layer.start())
    branch = layer.attention(normed, normed=True, interleaved=False)
    normed, residual = layer.add_norm(branch, residual)
    branch = layer.moe(normed, normalize)
    calls = layer.check(branch, residual)
    assert vendor_calls(calls) == MOE_BUDGET - 1
    once_per_step = 2  # the ones of moe_post: zeroed, then one added
    helpers = {"aten.split_columns": 1, "aten.zero": 4, "aten.add": 1}
    torch_router = 0 if normalize else 1
    assert (
        sum(calls.values())
        == vendor_calls(calls) + sum(helpers.values()) + once_per_step + torch_router
    )
    assert calls["router.sigmoid_group_topk"] == torch_router

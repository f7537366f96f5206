"""kv_cache: packed tokens over a paged cache give what each sequence gives alone; else a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.fx import Node

from glmc.errors import ConfigError, LoweringError
from glmc.ir import match as m
from glmc.ir.program import Program
from glmc.ir.rewrite import Rewriter
from glmc.passes.kv_cache import KvCache
from tests.support.models import tiny_config, tiny_model
from tests.support.packed import BLOCK, Batch, fused, give_caches, paged

aten = torch.ops.aten
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "glm": ("glm", {}),
    "glm4": ("glm4", {"attention_bias": False, "num_key_value_heads": 1}),
    "glm4_moe": ("glm4_moe", {}),
    "glm4_moe_plain": ("glm4_moe", {"use_qk_norm": False, "num_key_value_heads": 4}),
}
# Sums in another order, nothing more.
TOLERANCE = 2e-5


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("glm4", "glm4_moe") else pytest.mark.slow)
        for name in CONFIGS
    ],
)
def test_ragged_sequences_in_chunks_equal_each_alone(name: str) -> None:
    family, overrides = CONFIGS[name]
    config = tiny_config(family, **overrides)
    batch = Batch(tiny_model(config), (5, 1, 19, 33))
    expected = batch.alone(fused(config))
    program = give_caches(paged(config))
    found: list[list[torch.Tensor]] = [[] for _ in batch.lengths]
    # Chunks that begin and end inside a block, at its border, and sequences that stand still.
    for counts in ((5, 0, 8, 3), (0, 1, 1, 0), (0, 0, 10, 30)):
        logits = batch.step(program, counts)
        for index, part in enumerate(logits.split(list(counts))):
            found[index].append(part)
    assert batch.done == list(batch.lengths)
    for parts, logits in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.cat(parts), logits, rtol=TOLERANCE, atol=TOLERANCE)


def test_what_it_leaves() -> None:
    config = tiny_config("glm4_moe")
    program = fused(config)
    result = KvCache(BLOCK).run(program)
    assert [match.layer for match in result.matches] == [0, 1, 2]
    assert (program.phase, program.symbols is not None) == ("paged", True)
    names = [m.op_name(node) for node in program.graph.nodes]
    assert names.count("glmc.qkv_rope_cache") == names.count("glmc.prefill_attention") == 3
    assert not {"glmc.rope", "glmc.norm_rope", "glmc.attention", "aten.slice"} & set(names)
    assert [node.meta["input"] for node in program.inputs()] == [
        *("token_ids", "positions", "slot_mapping", "block_tables", "cu_seqlens_q", "cu_seqlens_k"),
        *(f"{kind}_cache.{layer}" for layer in range(3) for kind in ("key", "value")),
    ]


def head_of(program: Program) -> Node:
    heads: list[Node] = [node for node in program.graph.nodes if m.is_op(node, "glmc.linear")]
    return heads[-1]


def inserted(change: Callable[[Callable[..., Node], Node], Node]) -> Program:
    """The fused program with ``change`` of the hidden states before the head."""
    program = fused(tiny_config("glm"))
    head, rewriter = head_of(program), Rewriter(program, "twist")
    hidden = m.operand(head, 0)

    def call(target: Any, *arguments: Any) -> Node:
        return rewriter.call(target, arguments, replaces=(hidden,), before=head)

    head.replace_input_with(hidden, change(call, hidden))
    return program


def tokens_of(call: Callable[..., Node], hidden: Node, axis: int = 1) -> Node:
    return call(aten.sym_size.int, hidden, axis)


def reshaped(call: Callable[..., Node], hidden: Node, sizes: list[Any]) -> Node:
    """``hidden`` through ``sizes``, one op on it, and back."""
    inner = call(aten.silu.default, call(aten.reshape.default, hidden, sizes))
    back = [tokens_of(call, hidden, 0), tokens_of(call, hidden), 64]
    return call(aten.reshape.default, inner, back)


def heads_before_tokens(call: Callable[..., Node], hidden: Node) -> Node:
    sizes = [tokens_of(call, hidden, 0), 4, tokens_of(call, hidden), 16]
    return reshaped(call, hidden, sizes)


def over_all_tokens(call: Callable[..., Node], hidden: Node) -> Node:
    return call(aten.sub.Tensor, hidden, call(aten.mean.dim, hidden, [1], True))


def difference(call: Callable[..., Node], hidden: Node) -> Node:
    return call(aten.sub.Tensor, hidden, call(aten.mean.dim, hidden, [-1], True))


def without_its_dimension(call: Callable[..., Node], hidden: Node) -> Node:
    mean = call(aten.unsqueeze.default, call(aten.mean.dim, hidden, [-1]), -1)
    return call(aten.mul.Tensor, hidden, mean)


def slice_of_tokens(call: Callable[..., Node], hidden: Node) -> Node:
    return call(aten.add.Tensor, hidden, call(aten.slice.Tensor, hidden, 1, 0, 1))


def columns_with_gaps(call: Callable[..., Node], hidden: Node) -> Node:
    half = call(aten.slice.Tensor, hidden, 2, 0, 64, 64)
    return call(aten.mul.Tensor, hidden, half)


def between_tokens(call: Callable[..., Node], hidden: Node) -> Node:
    """A product of tokens with tokens, which as an op is an ordinary linear."""
    flat = call(aten.reshape.default, hidden, [-1, 64])
    mixed = call(torch.ops.glmc.linear.default, flat, flat, None)
    back = [tokens_of(call, hidden, 0), tokens_of(call, hidden), -1]
    return call(aten.reshape.default, mixed, back)


def broadcast(call: Callable[..., Node], hidden: Node) -> Node:
    """One row of numbers for the whole step: [1, 1, hidden]."""
    nodes = hidden.graph.nodes
    weight = next(node for node in nodes if node.meta.get("weight", "").endswith("norm.weight"))
    return call(aten.mul.Tensor, hidden, call(aten.reshape.default, weight, [1, 1, 64]))


TWISTS = {
    heads_before_tokens: "batch and tokens first",
    over_all_tokens: "the last dimension",
    difference: "one of glmc.add_rms_norm, glmc.all_gather",
    without_its_dimension: "a mean that keeps its dimension",
    slice_of_tokens: "the last dimension",
    columns_with_gaps: "neighbouring columns",
    between_tokens: "a weight of the model",
    broadcast: "does not know",
}


@pytest.mark.parametrize("twist", TWISTS, ids=lambda twist: twist.__name__)
def test_what_may_mix_tokens_is_refused(twist: Callable[..., Node]) -> None:
    program = inserted(twist)
    with pytest.raises(LoweringError) as caught:
        KvCache(BLOCK).run(program)
    assert TWISTS[twist] in str(caught.value)
    assert caught.value.place
    assert program.phase == "stateless"


def test_a_scaled_addition_is_refused_and_not_unscaled() -> None:
    program = inserted(lambda call, hidden: call(aten.add.Tensor, hidden, hidden))
    next(node for node in program.graph.nodes if m.is_op(node, "aten.add")).kwargs = {"alpha": 3}
    with pytest.raises(LoweringError, match="alpha"):
        KvCache(BLOCK).run(program)


def change_argument(name: str, index: int, value: Any, which: int = 0) -> Program:
    program = fused(tiny_config("glm"))
    node = [node for node in program.graph.nodes if m.is_op(node, name)][which]
    arguments = list(node.args)
    arguments[index:] = [value, *arguments[index + 1 :]]
    node.args = tuple(arguments)
    return program


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (lambda: change_argument("glmc.rope", 3, False), "q and k must be rotated alike"),
        (lambda: change_argument("glmc.rope", 4, 2.0, 1), "q and k must be rotated alike"),
    ],
    ids=["pairing", "scaling"],
)
def test_a_layer_that_the_cached_op_cannot_mean_is_refused(
    program: Callable[[], Program], reason: str
) -> None:
    with pytest.raises(LoweringError) as caught:
        KvCache(BLOCK).run(program())
    assert reason in caught.value.expected
    assert "layers.0" in str(caught.value)


def test_columns_with_gaps_in_front_of_an_attention_are_refused() -> None:
    with pytest.raises(LoweringError, match="neighbouring columns"):
        KvCache(BLOCK).run(change_argument("aten.slice", 4, 2))


def test_a_projection_in_another_order_is_joined_anew() -> None:
    """q and k of the same width, exchanged: the columns are copied into the order of the op."""
    config = tiny_config("glm", num_key_value_heads=4)
    program = fused(config)
    for layer in range(config.num_hidden_layers):
        attention = [node for node in program.graph.nodes if m.is_op(node, "glmc.attention")][layer]
        q, k = attention.args[0], attention.args[1]
        attention.args = (k, q, *attention.args[2:])  # type: ignore[assignment]
    program.graph_module.recompile()
    batch = Batch(tiny_model(config), (3, 1, 9))
    expected = batch.alone(program)
    KvCache(BLOCK).run(program)
    names = [m.op_name(node) for node in program.graph.nodes]
    assert names.count("glmc.join_qkv") == config.num_hidden_layers
    logits = batch.step(give_caches(program), (3, 1, 9))
    found = logits.split([3, 1, 9])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_layer_without_attention_is_named() -> None:
    program = fused(tiny_config("glm"))
    for node in program.graph.nodes:
        if m.is_op(node, "glmc.attention") and node.meta["layer"] == 1:
            node.meta["layer"] = 0
    with pytest.raises(LoweringError) as caught:
        KvCache(BLOCK).run(program)
    assert (caught.value.place, caught.value.found) == ("layer 1", "none in layer 1")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("kv_heads", 4, "4 KV heads of size 16"),
        ("query_heads", 8, "8 query heads"),
        ("head_dim", 32, "of size 32"),
    ],
)
def test_heads_that_are_not_the_configs_are_a_users_error(
    field: str, value: int, words: str
) -> None:
    program = fused(tiny_config("glm"))
    program.model = replace(program.model, **{field: value})
    with pytest.raises(ConfigError) as caught:
        KvCache(BLOCK).run(program)
    assert words in caught.value.expected
    assert caught.value.found == "4 query heads and 2 KV heads of size 16"
    assert "layers.0" in caught.value.place and "config.json" in caught.value.remedy

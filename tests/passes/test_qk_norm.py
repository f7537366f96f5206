"""qk_norm: the norm of each head joins its rotation, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glmc.ir import match as m
from glmc.passes import canonical, clean, qk_norm, rms_norm, rope
from tests.support.models import captured, example_inputs, tiny_config, tiny_model, weights_of
from tests.support.traced import conditions
from tests.zoo.attention import Block, Parts, Sizes, inputs, traced
from tests.zoo.rotations import interleaved_from_halves, neox_token_major

torch.set_num_threads(1)


def per_head(block: Block, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return block.q_norm(q), block.k_norm(k)


def only_queries(block: Block, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return block.q_norm(q), k


def read_elsewhere(block: Block, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    q = block.q_norm(q)
    block.leaks.append(q)
    return q, k


def whole_projection(block: Block, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return block.wide_norm(q.flatten(2)).view(q.shape), k


def after_transposing(block: Block, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return block.q_norm(q.transpose(1, 2)).transpose(1, 2), k


SPELLINGS = {
    "neox": Parts(norm=per_head),
    "interleaved": Parts(norm=per_head, rotate=interleaved_from_halves),
    "token_major": Parts(norm=per_head, rotate=neox_token_major, heads_first=False),
}
TWISTS = {
    "read_elsewhere": (Parts(norm=read_elsewhere), "the normed value is also read elsewhere"),
    "whole_projection": (Parts(norm=whole_projection), "over each head, not over the whole"),
    "after_transposing": (Parts(norm=after_transposing), "[batch, tokens, heads, head_dim]"),
}


DTYPES = (torch.float32, torch.bfloat16)
# Of the stock classes' spelling both; in the others what differs are views, which know no dtype.
QUICK = [("neox", dtype) for dtype in DTYPES]
QUICK += [("interleaved", torch.bfloat16), ("token_major", torch.float32)]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=() if (name, dtype) in QUICK else pytest.mark.slow)
        for name in SPELLINGS
        for dtype in DTYPES
    ],
    ids=str,
)
def test_fires(name: str, dtype: torch.dtype) -> None:
    block = traced(SPELLINGS[name], dtype=dtype, before=(rope.PASS,))
    many = [inputs(), inputs(1, 1), inputs(3, 40)]
    before = [block(*each)[0] for each in many]
    result = block.apply(qk_norm.PASS)
    assert (len(result.matches), conditions(result)) == (2, [])
    names = [node.args[1].meta["weight"] for node in block.nodes("glmc.norm_rope")]  # type: ignore[union-attr]
    assert names == ["q_norm.weight", "k_norm.weight"]
    assert not block.nodes("glmc.rms_norm", "glmc.rope")
    for each, old in zip(many, before, strict=True):
        assert torch.equal(block(*each)[0], old)
    text = block.text()
    again = block.apply(qk_norm.PASS)
    assert (again.matches, again.near_misses, block.text()) == ([], [], text)


def test_one_norm_alone_joins_alone() -> None:
    block = traced(Parts(norm=only_queries), Sizes(4, 4), before=(rope.PASS,))
    before = block(*inputs())[0]
    assert len(block.apply(qk_norm.PASS).matches) == 1
    assert len(block.nodes("glmc.rope")) == 1
    assert torch.equal(block(*inputs())[0], before)


@pytest.mark.parametrize("name", TWISTS)
def test_refuses(name: str) -> None:
    parts, reason = TWISTS[name]
    block = traced(parts, before=(rope.PASS,))
    text = block.text()
    result = block.apply(qk_norm.PASS)
    assert not result.matches
    assert len(conditions(result)) == 1
    assert reason in conditions(result)[0]
    assert block.text() == text


def test_rope_without_a_norm_is_not_worth_telling() -> None:
    result = traced(before=(rope.PASS,)).apply(qk_norm.PASS)
    assert (result.matches, result.near_misses) == ([], [])


@pytest.mark.parametrize("dtype", DTYPES)
def test_fires_on_the_stock_class(dtype: torch.dtype) -> None:
    config = tiny_config("glm4_moe")  # the model of other tests, which is traced once for all
    program, eager = captured(config, dtype), tiny_model(config, dtype)
    for each in (canonical.PASS, clean.PASS, rms_norm.PASS, rope.PASS):
        each.run(program)
    x = example_inputs()
    before = program.run(x, weights_of(program, eager))[0]
    result = qk_norm.PASS.run(program)
    assert [match.layer for match in result.matches] == [0, 0, 1, 1, 2, 2]
    assert not result.near_misses
    found = [node for node in program.graph.nodes if m.is_op(node, "glmc.norm_rope")]
    assert [node.meta["passes"][-1] for node in found] == ["qk_norm"] * 6
    assert torch.equal(before, program.run(x, weights_of(program, eager))[0])

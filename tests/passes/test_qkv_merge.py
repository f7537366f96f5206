"""qkv_merge: three projections become one, with a recipe that lays their rows below each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glmc.ir import match as m
from glmc.ir.recipe import Concatenate, Constant, sources
from glmc.passes import attention, canonical, clean, qk_norm, qkv_merge, rms_norm, rope
from tests.support.models import captured, example_inputs, tiny_config, tiny_model, weights_of
from tests.support.thinned import thinned
from tests.support.traced import conditions
from tests.zoo.attention import Block, Parts, Sizes, inputs, traced, unrotated
from tests.zoo.rotations import interleaved_from_halves

torch.set_num_threads(1)
BEFORE = (rope.PASS, qk_norm.PASS, attention.PASS)
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}
Projected = tuple[Tensor, Tensor, Tensor]


def close(new: Tensor, old: Tensor) -> bool:
    limit = TOLERANCE[old.dtype] * float(old.abs().max())
    return bool((new.float() - old.float()).abs().max() <= limit)


def normed(block: Block, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return block.q_norm(q), block.k_norm(k)


SPELLINGS = {
    "plain": Parts(),
    "interleaved": Parts(rotate=interleaved_from_halves),
    "normed": Parts(norm=normed),
    "without_rope": Parts(rotate=unrotated),
}


# The plain spelling with and without bias in each dtype, the others once: the pass does not see
# what is between a projection and the attention.
QUICK = {
    "plain": ((True, torch.float32), (False, torch.bfloat16)),
    "interleaved": ((True, torch.bfloat16),),
    "normed": ((False, torch.float32),),
    "without_rope": ((True, torch.bfloat16),),
}


@pytest.mark.parametrize(
    ("name", "bias", "dtype"),
    [
        pytest.param(
            *(name, bias, dtype), marks=() if (bias, dtype) in QUICK[name] else pytest.mark.slow
        )
        for name in SPELLINGS
        for bias in (True, False)
        for dtype in TOLERANCE
    ],
    ids=str,
)
def test_fires(name: str, bias: bool, dtype: torch.dtype) -> None:
    block = traced(SPELLINGS[name], dtype=dtype, bias=bias, before=BEFORE)
    many = [inputs(), inputs(1, 1), inputs(3, 40)]
    before = [block(*each)[0] for each in many]
    result = block.apply(qkv_merge.PASS)
    assert (len(result.matches), conditions(result)) == (1, [])
    merged, _ = block.nodes("glmc.linear")
    weight = block.program.weight_of(merged.args[1])
    assert weight is not None
    assert (weight.shape, weight.dtype) == ((128, 32), dtype)
    assert isinstance(weight.recipe, Concatenate)
    rows = [source.name for source in sources(weight.recipe)]
    assert rows == ["q_proj.weight", "k_proj.weight", "v_proj.weight"]
    held = block.program.weight_of(merged.args[2])
    assert (held is not None, held is not None and held.shape == (128,)) == (bias, bias)
    slices = [node.args[1:] for node in block.nodes("aten.slice")]
    assert slices == [(2, 0, 64), (2, 64, 96), (2, 96, 128)]
    assert not [name for name in block.program.weights if name in rows], "unused weights are gone"
    for each, old in zip(many, before, strict=True):
        assert close(block(*each)[0], old)
    text = block.text()
    again = block.apply(qkv_merge.PASS)
    assert (again.matches, again.near_misses, block.text()) == ([], [], text)


@pytest.mark.parametrize(
    "sizes", thinned([Sizes(4, 1), Sizes(4, 4), Sizes(6, 2, 64, 32)], [Sizes(4, 4)]), ids=str
)
def test_sizes(sizes: Sizes) -> None:
    block = traced(sizes=sizes, before=BEFORE)
    before = block(*inputs())[0]
    assert len(block.apply(qkv_merge.PASS).matches) == 1
    assert close(block(*inputs())[0], before)


def one_projection(block: Block, x: Tensor) -> Projected:
    weight = torch.nn.functional.linear
    return weight(x, block.fused).split([64, 32, 32], -1)  # type: ignore[return-value]


def test_a_fused_model_has_nothing_to_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Block.__init__

    def fused(self: Any, *arguments: Any) -> None:
        start(self, *arguments)
        self.fused = torch.nn.Parameter(torch.randn(128, 32))

    monkeypatch.setattr(Block, "__init__", fused)
    block = traced(Parts(project=one_projection), before=BEFORE)
    assert len(block.nodes("glmc.attention")) == 1
    result = block.apply(qkv_merge.PASS)
    assert (result.matches, result.near_misses) == ([], [])


def other_input(block: Block, x: Tensor) -> Projected:
    return block.q_proj(x * 2), block.k_proj(x), block.v_proj(x)


def one_bias_missing(block: Block, x: Tensor) -> Projected:
    k = torch.nn.functional.linear(x, block.k_proj.weight)
    return block.q_proj(x), k, block.v_proj(x)


def read_elsewhere(block: Block, x: Tensor) -> Projected:
    k = block.k_proj(x)
    block.leaks.append(k)
    return block.q_proj(x), k, block.v_proj(x)


def computed_weight(block: Block, x: Tensor) -> Projected:
    q = torch.nn.functional.linear(x, block.q_proj.weight * 2, block.q_proj.bias)
    return q, block.k_proj(x), block.v_proj(x)


def shared(block: Block, x: Tensor) -> Projected:
    k = block.k_proj(x)
    return block.q_proj(x), k, k


def activated(block: Block, x: Tensor) -> Projected:
    return block.q_proj(x), block.k_proj(x), block.v_proj(x).sigmoid()


def test_a_bias_that_some_lack_is_merged_with_zeros() -> None:
    block = traced(Parts(project=one_bias_missing), before=BEFORE)
    many = inputs()
    before = block(*many)[0]
    assert len(block.apply(qkv_merge.PASS).matches) == 1
    (name,) = [name for name in block.program.weights if name.endswith("qkv_proj.bias")]
    recipe = block.program.weights[name].recipe
    assert isinstance(recipe, Concatenate)
    assert recipe.parts[1] == Constant((0.0,) * 32)
    assert close(block(*many)[0], before)


TWISTS = {
    other_input: "projected from one value",
    read_elsewhere: "the projection is also read elsewhere",
    computed_weight: "the projection must be a model weight",
    shared: "must have a projection each",
    activated: "expected glmc.linear but found aten.sigmoid",
}


@pytest.mark.parametrize("project", TWISTS, ids=lambda project: project.__name__)
def test_refuses(project: Any) -> None:
    block = traced(Parts(project=project), before=BEFORE)
    assert len(block.nodes("glmc.attention")) == 1
    text = block.text()
    result = block.apply(qkv_merge.PASS)
    assert not result.matches
    assert len(conditions(result)) == 1
    assert TWISTS[project] in conditions(result)[0]
    assert block.text() == text


# The attention of glm and glm4 is spelled alike.
@pytest.mark.parametrize("family", thinned(["glm", "glm4", "glm4_moe"], ["glm4"]))
def test_fires_on_the_stock_classes(family: str) -> None:
    config = tiny_config(family)
    program, eager = captured(config), tiny_model(config)
    x = example_inputs()
    expected = program.run(x, weights_of(program, eager))[0]
    for each in (canonical.PASS, clean.PASS, rms_norm.PASS, *BEFORE):
        each.run(program)
    result = qkv_merge.PASS.run(program)
    assert [match.layer for match in result.matches] == list(range(program.model.layers))
    assert not result.near_misses
    names = [name for name in program.weights if "self_attn" in name and "norm" not in name]
    kinds = {name.split("self_attn.")[1] for name in names}
    assert kinds == {"qkv_proj.weight", "qkv_proj.bias", "o_proj.weight"}
    assert "model.layers.1.self_attn.qkv_proj.weight" in names
    assert close(program.run(x, weights_of(program, eager))[0], expected)
    if family == "glm":
        assert block_text(program, 1) == STORED


def block_text(program: Any, layer: int) -> str:
    """One layer's attention as the passes after these expect it."""
    lines = []
    for node in program.graph.nodes:
        inside = node.op == "call_function" and "self_attn" in node.meta["module"]
        if inside and node.meta["layer"] == layer:
            sizes = [size if m.is_static(size) else "*" for size in m.shape(node)]
            lines.append(f"{m.op_name(node)} {sizes}".replace("'", ""))
    return "\n".join(lines)


STORED = """\
glmc.linear [*, *, 128]
aten.slice [*, *, 64]
aten.reshape [*, *, 4, 16]
glmc.rope [*, *, 4, 16]
aten.slice [*, *, 32]
aten.reshape [*, *, 2, 16]
glmc.rope [*, *, 2, 16]
aten.slice [*, *, 32]
aten.reshape [*, *, 2, 16]
glmc.attention [*, *, 4, 16]
aten.reshape [*, *, 64]
glmc.linear [*, *, 64]"""

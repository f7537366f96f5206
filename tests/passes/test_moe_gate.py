"""moe_gate: every spelling of the router, what must be refused, and bitwise equal results."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from glmc.passes import moe_gate
from tests.support.structure import structure
from tests.support.thinned import thinned
from tests.support.traced import Traced, conditions, trace
from tests.zoo.gate import (
    EXPERTS,
    HIDDEN,
    SETTINGS,
    SPELLINGS,
    TOP_K,
    BareSum,
    Gate,
    NoGroups,
    Observed,
)
from tests.zoo.gate_twists import TWISTS

torch.set_num_threads(1)
# Each of these runs no line of the passes, and takes no branch of theirs, that others don't.
SLOW = "ByGroup Dropping BoolMask ScatteredOnes OneHot SumUnsqueezed FactorFirst".split()
BY_NAME = {kind.__name__: kind for kind in SPELLINGS}


def traced(kind: type[Gate], *arguments: object) -> Traced:
    kept = _traced(kind, *arguments)
    return Traced(kept.program.copy(), kept.module)


@cache
def _traced(kind: type[Gate], *arguments: object) -> Traced:
    torch.manual_seed(0)
    gate = kind(*arguments)  # type: ignore[arg-type]
    return trace(gate, torch.randn(2, 5, HIDDEN).to(gate.weight.dtype))


@cache
def first_spelling(*constants: object) -> list[str]:
    """The canonical node that transformers' own spelling of these constants becomes."""
    names = ("groups", "top_groups", "fill", "normalize", "eps", "scale")
    given = dict(zip(names, constants, strict=True))
    sizes = (given.pop("groups"), given.pop("top_groups"))
    program = traced(type("First", (Gate,), given), *sizes)
    assert len(program.apply(moe_gate.PASS).matches) == 1
    return structure(program.program, program.nodes("glmc.moe_gate"))


def settings(program: Traced) -> tuple[object, ...]:
    (node,) = program.nodes("glmc.moe_gate")
    return tuple(node.args[3:])


@pytest.mark.parametrize(
    "kind",
    thinned([*SPELLINGS, *SETTINGS], [BY_NAME[name] for name in SLOW]),
    ids=lambda kind: kind.__name__,
)
def test_fires(kind: type[Gate]) -> None:
    program = traced(kind)
    x = torch.randn(2, 7, HIDDEN)
    before = program(x)
    result = program.apply(moe_gate.PASS)
    assert (len(result.matches), conditions(result)) == (1, [])
    groups = (1, 1, 0.0) if kind is NoGroups else (4, 2, kind.fill)
    eps = 0.0 if kind.__name__ == "BareSum" or not kind.normalize else 1e-20
    assert settings(program) == (TOP_K, *groups, kind.normalize, eps, kind.scale)
    stock = first_spelling(4, 2, kind.fill, kind.normalize, kind.eps, kind.scale)
    same = structure(program.program, program.nodes("glmc.moe_gate")) == stock
    # With no groups, or no eps, the node has other constants than the class says.
    assert same is (kind not in (NoGroups, BareSum))
    assert not program.nodes("aten.topk", "aten.gather", "aten.masked_fill", "aten.where")
    for old, new, eager in zip(before, program(x), program.eager(x), strict=True):
        assert torch.equal(old, new)
        assert torch.equal(eager, new)
    text = program.text()
    again = program.apply(moe_gate.PASS)
    assert (again.matches, again.near_misses, program.text()) == ([], [], text)


def test_one_group_is_one_node_in_every_version() -> None:
    """Published models have one group: what masked groups become then makes no difference."""
    nodes = []
    for kind, origin in SPELLINGS.items():
        if origin.startswith("transformers"):
            program = traced(kind, 1, 1)
            assert len(program.apply(moe_gate.PASS).matches) == 1
            nodes.append(structure(program.program))
    assert len(nodes) == 3
    assert all(each == nodes[0] for each in nodes)


@pytest.mark.parametrize("kind", TWISTS, ids=lambda kind: kind.__name__)
def test_refuses(kind: type[Gate]) -> None:
    dtype = torch.bfloat16 if kind.__name__ == "LowPrecision" else torch.float32
    program = traced(kind, 4, 2, dtype)
    text = program.text()
    result = program.apply(moe_gate.PASS)
    assert not result.matches
    (reason,) = conditions(result)
    assert TWISTS[kind] in reason
    assert program.text() == text


def test_a_gather_elsewhere_is_not_worth_telling() -> None:
    class Elsewhere(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sigmoid().gather(1, x.argmax(-1, keepdim=True))

    result = trace(Elsewhere(), torch.randn(6, HIDDEN)).apply(moe_gate.PASS)
    assert (result.matches, result.near_misses) == ([], [])


def test_all_groups_chosen_means_no_groups() -> None:
    program = traced(Gate, 4, 4)
    x = torch.randn(1, 33, HIDDEN)
    before = program(x)
    program.apply(moe_gate.PASS)
    assert settings(program)[1:4] == (1, 1, 0.0)
    assert all(torch.equal(old, new) for old, new in zip(before, program(x), strict=True))


def test_bfloat16_casts_are_stripped() -> None:
    program = traced(Gate, 4, 2, torch.bfloat16)
    x = torch.randn(2, 25, HIDDEN).bfloat16()
    before = program(x)
    program.apply(moe_gate.PASS)
    (node,) = program.nodes("glmc.moe_gate")
    assert [each.meta["val"].dtype for each in node.args[:3]] == [  # type: ignore[union-attr]
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
    ]
    assert not program.nodes("aten._to_copy")
    assert all(torch.equal(old, new) for old, new in zip(before, program(x), strict=True))


def test_a_rounding_cast_is_kept() -> None:
    """float32 -> bfloat16 -> float32 loses bits; only the outer cast is the op's own."""

    class Rounded(Gate):
        def logits(self, x: Tensor) -> Tensor:
            return super().logits(x.bfloat16())

    program = traced(Rounded)
    x = torch.randn(2, 25, HIDDEN)
    before = program(x)
    assert len(program.apply(moe_gate.PASS).matches) == 1
    assert len(program.nodes("aten._to_copy")) == 1
    assert all(torch.equal(old, new) for old, new in zip(before, program(x), strict=True))


def test_other_readers_keep_their_values() -> None:
    program = traced(Observed)
    program.apply(moe_gate.PASS)
    x = torch.randn(3, 3, HIDDEN)
    assert len(program.nodes("aten.sigmoid")) == 1
    assert all(torch.equal(old, new) for old, new in zip(program.eager(x), program(x), strict=True))


def hostile(name: str, gate: Gate) -> Tensor:
    """Sets the router so that its choice is at an edge; returns the tokens."""
    x = torch.randn(64, HIDDEN)
    if name == "one token":
        return x[:1]
    if name == "many tokens":
        return torch.randn(1500, HIDDEN)
    if name == "ties":
        gate.weight.copy_(gate.weight[:2].repeat(EXPERTS // 2, 1))
        gate.bias.copy_(gate.bias[:2].repeat(EXPERTS // 2))
    elif name == "all equal":
        gate.weight.zero_()
        gate.bias.fill_(0.25)
    elif name == "large negative":
        x = -1e4 * gate.weight.sum(0).expand(64, -1) * torch.rand(64, 1)
    elif name == "negative biased scores":
        gate.bias.sub_(5.0)
    elif name == "mixed signs":
        gate.bias.copy_(torch.linspace(-1.5, 0.5, EXPERTS))
    return x


# Without groups nothing is filled: what with is the same.
@pytest.mark.parametrize(
    ("fill", "groups"),
    thinned(
        [(fill, groups) for fill in (0.0, -torch.inf) for groups in ((4, 2), (1, 1))],
        [(0.0, (1, 1))],
    ),
    ids=str,
)
def test_equal_on_hostile_inputs(fill: float, groups: tuple[int, int]) -> None:
    kind = type("Filled", (Gate,), {"fill": fill})
    program = traced(kind, *groups)
    rewritten = Traced(program.program.copy(), program.module)
    assert len(rewritten.apply(moe_gate.PASS).matches) == 1
    kept = {name: value.clone() for name, value in program.module.state_dict().items()}
    for name in (
        "one token",
        "many tokens",
        "ties",
        "all equal",
        "large negative",
        "negative biased scores",
        "mixed signs",
    ):
        program.module.load_state_dict(kept)
        x = hostile(name, program.module).unsqueeze(0)  # type: ignore[arg-type]
        for old, new in zip(program(x), rewritten(x), strict=True):
            assert torch.equal(old, new), name

"""moe_ffn: every spelling of the experts, what must be refused, and results within bounds."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from glmc.passes import moe_ffn, moe_gate
from tests.support.structure import structure
from tests.support.thinned import thinned
from tests.support.traced import Traced, conditions, trace
from tests.zoo.experts import SPELLINGS, WIDTH, Batched, Grouped
from tests.zoo.experts_twists import IN_BFLOAT16, TWISTS
from tests.zoo.gate import HIDDEN, TOP_K

torch.set_num_threads(1)
DTYPES = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


def traced(kind: type[Batched], dtype: torch.dtype = torch.float32) -> Traced:
    torch.manual_seed(0)
    program = trace(kind(dtype), torch.randn(6, HIDDEN).to(dtype))
    assert len(program.apply(moe_gate.PASS).matches) == 1
    return program


def bound(program: Traced, x: Tensor) -> float:
    """Largest difference that other orders of reduction can make.

    An output is a sum over the choices of weight * (down . activated). With unit roundoff u each
    dot product of n terms is off by at most n * u times the sum of the terms' magnitudes, in
    either spelling; activated adds its own two products of HIDDEN terms. The magnitudes come from
    the absolute values of weights and inputs; silu is at most |g| with a slope below 1.1.
    """
    module = program.module
    gate, up = module.gate_up.float().abs().chunk(2, 1)  # type: ignore[union-attr, operator]
    size = x.float().abs().max()
    gated, upped = size * gate.sum(-1), size * up.sum(-1)
    weight = 2.5 * TOP_K
    total = (module.down.float().abs() @ (gated * upped).unsqueeze(-1)).max()  # type: ignore[union-attr, operator]
    return float(2 * (2.2 * HIDDEN + WIDTH + 8) * DTYPES[x.dtype] * weight * total)


@cache
def first_spelling(dtype: torch.dtype) -> list[str]:
    """What the newest transformers' experts become."""
    program = traced(Batched, dtype)
    assert len(program.apply(moe_ffn.PASS).matches) == 1
    return structure(program.program)


# bfloat16 has casts as well; in float32 transformers spells the grouped product with its own op.
CASES = [(kind, torch.bfloat16) for kind in SPELLINGS]
CASES += [(kind, torch.float32) for kind, origin in SPELLINGS.items() if "user" not in origin]
# Other versions differ from these in float32 as they do in bfloat16.
IN_FLOAT32 = (Batched, Grouped)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    thinned(
        CASES,
        [case for case in CASES if case[1] == torch.float32 and case[0] not in IN_FLOAT32],
    ),
    ids=[f"{kind.__name__}-{dtype}" for kind, dtype in CASES],
)
def test_fires(kind: type[Batched], dtype: torch.dtype) -> None:
    if dtype == torch.float32 and issubclass(kind, Grouped):
        pytest.importorskip("transformers.integrations.moe", reason="defines the grouped product")
    program = traced(kind, dtype)
    inputs = [torch.randn(tokens, HIDDEN).to(dtype) for tokens in (9, 1, 300)]
    before = [program(x)[0] for x in inputs]
    result = program.apply(moe_ffn.PASS)
    assert (len(result.matches), conditions(result)) == (1, [])
    assert structure(program.program) == first_spelling(dtype)
    (node,) = program.nodes("glmc.moe_ffn")
    (gate,) = program.nodes("glmc.moe_gate")
    assert node.args[0] is gate.args[0]
    assert [each.args for each in node.args[1:3]] == [(gate, 0), (gate, 1)]  # type: ignore[union-attr]
    assert [each.meta["weight"] for each in node.args[3:]] == ["gate_up", "down"]  # type: ignore[union-attr]
    assert not program.nodes("aten.index", "aten.bmm", "aten._grouped_mm", "aten.sort", "aten.sum")
    for x, old in zip(inputs, before, strict=True):
        new = program(x)[0]
        assert new.dtype == dtype and new.shape == old.shape
        assert (new.double() - old.double()).abs().max() <= bound(program, x)
    text = program.text()
    again = program.apply(moe_ffn.PASS)
    assert (again.matches, again.near_misses, program.text()) == ([], [], text)


@pytest.mark.parametrize("kind", TWISTS, ids=lambda kind: kind.__name__)
def test_refuses(kind: type[Batched]) -> None:
    low = kind in IN_BFLOAT16 or issubclass(kind, Grouped)
    program = traced(kind, torch.bfloat16 if low else torch.float32)
    text = program.text()
    result = program.apply(moe_ffn.PASS)
    assert not result.matches
    assert any(TWISTS[kind] in reason for reason in conditions(result)), conditions(result)
    assert program.text() == text


def test_needs_the_gate() -> None:
    torch.manual_seed(0)
    program = trace(Batched(), torch.randn(6, HIDDEN))
    (reason,) = conditions(program.apply(moe_ffn.PASS))
    assert "the two results of one moe_gate" in reason


def test_all_tokens_to_one_expert() -> None:
    """The other experts get no row at all."""
    for kind in (Batched, Grouped):
        program = traced(kind, torch.bfloat16)
        program.module.gate.bias.fill_(-9.0)[3] = 9.0  # type: ignore[union-attr, operator, index]
        x = torch.randn(20, HIDDEN).bfloat16()
        before = program(x)[0]
        program.apply(moe_ffn.PASS)
        assert (program(x)[0] - before).abs().max() <= bound(program, x)

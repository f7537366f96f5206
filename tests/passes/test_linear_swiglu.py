"""linear_swiglu: every gated MLP of the dense layers, bitwise; refuses what is read elsewhere."""

from __future__ import annotations

import pytest

from glmc.ir.ops.linear import LINEAR, SWIGLU
from glmc.passes import linear_swiglu
from tests.backends.planned import WIDTH, Built
from tests.passes.merges import conditions, fires

PASS = linear_swiglu.PASS


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize(("family", "expected"), [("glm", 2), ("glm4", 2), ("glm4_moe", 1)])
def test_fires_on_every_gated_mlp(family: str, expected: int, phase: str) -> None:
    fires(PASS, family, phase, expected)


@pytest.mark.parametrize(
    ("biased", "observed", "reason"),
    [
        (True, False, "the projection must have no bias"),
        (False, True, "the projection is also read elsewhere"),
    ],
)
def test_refuses(biased: bool, observed: bool, reason: str) -> None:
    built = Built()
    x = built.input("x", "tokens", WIDTH)
    bias = built.weight("b", 4) if biased else None
    merged = built.call(LINEAR.overload, x, built.weight("w", 4, WIDTH), bias)
    out = built.call(SWIGLU.overload, merged)
    program = built.program(out, merged) if observed else built.program(out)
    result = PASS.run(program)
    assert not result.matches
    assert conditions(result) == [reason]

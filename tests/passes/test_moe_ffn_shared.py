"""moe_ffn_shared: every mixture with a shared expert, bitwise; refuses other inputs and users."""

from __future__ import annotations

import pytest
import torch

from glmc.ir.match import is_op, shape
from glmc.ir.ops.moe import MOE_FFN, SHARED_EXPERT
from glmc.passes import moe_ffn_shared
from tests.backends.planned import WIDTH, Built
from tests.passes.merges import conditions, fires
from tests.support.thinned import thinned

PASS = moe_ffn_shared.PASS
PHASES = ("prefill", "decode")


# That a dense model has none is the same in both phases.
@pytest.mark.parametrize(
    ("family", "expected", "phase"),
    thinned(
        [(*each, phase) for each in (("glm4_moe", 2), ("glm4", 0)) for phase in PHASES],
        [("glm4", 0, "prefill")],
    ),
)
def test_fires_on_every_mixture(family: str, expected: int, phase: str) -> None:
    fires(PASS, family, phase, expected)


@pytest.mark.parametrize(
    ("other", "observed", "reason"),
    [
        (True, False, "the shared expert must read what the routed ones read"),
        (False, True, "the routed experts are also read elsewhere"),
    ],
)
def test_refuses(other: bool, observed: bool, reason: str) -> None:
    built = Built()
    x = built.input("x", "tokens", WIDTH)
    y = built.input("y", "tokens", WIDTH) if other else x
    weights = built.input("weights", "tokens", 2)
    ids = built.input("ids", "tokens", 2, dtype=torch.int64)
    gate_up, down = built.weight("gu", 3, 8, WIDTH), built.weight("d", 3, WIDTH, 4)
    routed = built.call(MOE_FFN.overload, x, weights, ids, gate_up, down)
    shared = (built.weight("sgu", 8, WIDTH), built.weight("sd", WIDTH, 4))
    out = built.call(SHARED_EXPERT.overload, y, *shared, routed)
    program = built.program(out, routed) if observed else built.program(out)
    result = PASS.run(program)
    assert not result.matches
    assert conditions(result) == [reason]


def test_reshapes_between_the_two_are_no_hindrance() -> None:
    """As in a traced program, whose shared expert keeps the batch apart."""
    built = Built()
    x = built.input("x", "tokens", WIDTH)
    weights = built.input("weights", "tokens", 2)
    ids = built.input("ids", "tokens", 2, dtype=torch.int64)
    gate_up, down = built.weight("gu", 3, 8, WIDTH), built.weight("d", 3, WIDTH, 4)
    routed = built.call(MOE_FFN.overload, x, weights, ids, gate_up, down)
    reshape, sizes = torch.ops.aten.reshape.default, [1, -1, WIDTH]
    shared = (built.weight("sgu", 8, WIDTH), built.weight("sd", WIDTH, 4))
    apart = built.call(reshape, x, sizes), *shared, built.call(reshape, routed, sizes)
    program = built.program(built.call(SHARED_EXPERT.overload, *apart))
    assert len(PASS.run(program).matches) == 1
    (made,) = (node for node in program.graph.nodes if is_op(node, "glmc.moe_ffn_shared"))
    (user,) = made.users
    assert is_op(user, "aten.reshape")
    assert shape(user)[0] == 1

"""norm_add_rms_norm: both sandwich norms of glm4, none elsewhere, bitwise."""

from __future__ import annotations

import pytest

from glmc.ir.ops.norms import ADD_RMS_NORM, RMS_NORM
from glmc.passes import norm_add_rms_norm
from tests.backends.planned import WIDTH, Built
from tests.passes.merges import conditions, fires

PASS = norm_add_rms_norm.PASS


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize(("family", "expected"), [("glm4", 4), ("glm4_moe", 0), ("glm", 0)])
def test_fires_on_sandwich_norms_alone(family: str, expected: int, phase: str) -> None:
    fires(PASS, family, phase, expected)


def test_refuses_a_normed_branch_that_is_read_elsewhere() -> None:
    built = Built()
    x, stream = built.input("x", "tokens", WIDTH), built.input("stream", "tokens", WIDTH)
    weight = built.weight("w", WIDTH)
    normed = built.call(RMS_NORM.overload, x, weight, 1e-5)
    both = built.call(ADD_RMS_NORM.overload, normed, stream, weight, 1e-5)
    out = built.item(both, 0)
    program = built.program(out, normed)
    result = PASS.run(program)
    assert not result.matches
    assert conditions(result) == ["the normed branch is also read elsewhere"]

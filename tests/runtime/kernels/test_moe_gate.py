"""The gate in C, with every instruction set of this processor: scores, and the choice that torch
makes of them, bit for bit."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cpu.few_rows import FEW_TOKENS
from glmc_runtime.kernels.ordered.moe_gate import in_slot_order
from glmc_runtime.kernels.router import choose_experts
from tests.runtime.kernels.harness import nan, random, run
from tests.runtime.kernels.instruction_sets import each_instruction_set as each_instruction_set
from tests.support.thinned import thinned

pytestmark = pytest.mark.usefixtures("each_instruction_set")
DTYPES = (torch.bfloat16, torch.float32)
KINDS = ("random", "ties", "few values", "negative", "nan", "infinite")
GROUPS = [(1, 1, 0.0), (4, 4, 0.0), (4, 2, 0.0), (4, 3, -math.inf), (8, 1, 0.0)]


def arguments_of(
    x: Tensor, weight: Tensor, bias: Tensor, top_k: int, **constants: Any
) -> dict[str, Any]:
    (tokens, hidden), experts = x.shape, len(weight)
    constants = {
        "groups": 1,
        "top_groups": 1,
        "group_fill": 0.0,
        "normalize": True,
        "normalize_eps": 1e-20,
        "scale": 2.5,
        **constants,
    }
    groups, best = constants["groups"], constants["top_groups"]
    return {
        "x": x,
        "weight": weight,
        "bias": bias,
        "weights": nan(tokens, top_k),
        "ids": torch.full((tokens, top_k), -1),
        "x_float": nan(tokens, hidden),
        "logits": nan(tokens, experts),
        "choice": nan(tokens, experts),
        "chosen_values": nan(tokens, top_k),
        "sums": nan(tokens, 1),
        "best_scores": nan(tokens, groups, 2),
        "best_ids": torch.zeros(tokens, groups, 2, dtype=torch.int64),
        "group_scores": nan(tokens, groups),
        "dropped": torch.zeros(tokens, groups, dtype=torch.bool),
        "chosen_scores": nan(tokens, best),
        "chosen_groups": torch.zeros(tokens, best, dtype=torch.int64),
        **constants,
    }


def require_choice(arguments: dict[str, Any]) -> None:
    """Weights and ids are what torch makes of the scores, which a call leaves in ``logits``."""
    scores = arguments["logits"].clone()
    by_torch = {
        **arguments,
        "weights": torch.empty_like(arguments["weights"]),
        "ids": torch.empty_like(arguments["ids"]),
        "choice": torch.empty_like(scores),
    }
    for thunk in choose_experts(by_torch, scores, in_slot_order):
        thunk()
    assert torch.equal(arguments["ids"], by_torch["ids"])
    torch.testing.assert_close(
        arguments["weights"], by_torch["weights"], rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [1, 16, 77, 2048])
def test_scores(dtype: torch.dtype, hidden: int) -> None:
    """Every remainder of tokens, experts and lanes; sums in float32, not of the dtype."""
    for tokens in (1, 2, 5, 9, FEW_TOKENS):
        for experts in (1, 2, 7, 64, 130):
            x = random(tokens, hidden, dtype=dtype)
            weight = (random(experts, hidden, seed=2) / hidden**0.5).to(dtype)
            arguments = arguments_of(x, weight, random(experts, seed=3), 1)
            run("moe_gate", **arguments)
            exact = (x.double() @ weight.double().t()).sigmoid()
            size = x.double().abs() @ weight.double().abs().t()
            error = (arguments["logits"].double() - exact).abs()
            most = 2.0**-22 * (math.sqrt(hidden) * size / 4 + 1)
            assert bool((error <= most).all()), (tokens, experts, error.max())
            require_choice(arguments)


WAYS = list(product(DTYPES, GROUPS, KINDS, (True, False)))
# The choice reads scores alone, which are float32 of both dtypes; weights are divided, or not,
# after it. So for each group and kind the normal suite has one dtype that divides and one that
# does not.
REPEATED = [
    (dtype, group, kind, normalize)
    for dtype, group, kind, normalize in WAYS
    if (DTYPES.index(dtype) + GROUPS.index(group) + KINDS.index(kind) + normalize) % 2
]


@pytest.mark.parametrize(("dtype", "group", "kind", "normalize"), thinned(WAYS, long=REPEATED))
def test_choice(
    dtype: torch.dtype, group: tuple[int, int, float], kind: str, normalize: bool
) -> None:
    groups, best, fill = group
    for experts in (16, 64, 512):
        for top_k in (1, 4, 8, 15):
            x, weight = random(3, 24, dtype=dtype), random(experts, 24, dtype=dtype, seed=2)
            bias = random(experts, seed=3)
            if kind == "ties":
                weight.zero_()
                bias.zero_()
            elif kind == "few values":
                weight.zero_()
                bias.copy_(torch.arange(experts) * 7 % 5)
            elif kind == "negative":
                bias.sub_(5.0)  # all choices below the fill of 0.0
            elif kind == "nan":
                bias[::7] = torch.nan
                x[1] = torch.nan
            elif kind == "infinite":
                bias[::5], bias[1::5] = torch.inf, -torch.inf
            constants = {"groups": groups, "top_groups": best, "group_fill": fill}
            arguments = arguments_of(x, weight, bias, top_k, normalize=normalize, **constants)
            find_binder("cpu.moe_gate")(arguments)()
            require_choice(arguments)


@pytest.mark.parametrize("top_k", [8, 9, 15, 100, 256, 511, 512])
def test_choice_where_quickselect_is_at_its_worst(top_k: int) -> None:
    """An order whose medians of three are the smallest there are, up and down."""
    half = 256
    order = [i + 1 if i % 2 == 0 else half + i + (half % 2 == 0) for i in range(half)]
    worst = torch.tensor([*order, *range(2, 2 * half + 1, 2)], dtype=torch.float32)
    for bias in (worst, -worst, worst.flip(0), worst.sort()[0], (worst - half).abs()):
        arguments = arguments_of(random(1, 8), torch.zeros(512, 8), bias, top_k)
        find_binder("cpu.moe_gate")(arguments)()
        require_choice(arguments)


def test_far_logits_are_no_longer_apart() -> None:
    x, weight = torch.tensor([[1.0]]), torch.tensor([[-torch.inf], [-200.0], [0.0], [200.0]])
    arguments = arguments_of(x, weight, torch.zeros(4), 4)
    find_binder("cpu.moe_gate")(arguments)()
    assert arguments["logits"][0].tolist() == [0.0, 0.0, 0.5, 1.0]
    require_choice(arguments)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_has_the_same_bits_beside_others_and_with_any_number_of_threads(
    dtype: torch.dtype,
) -> None:
    x, weight = random(21, 1000, dtype=dtype), random(64, 1000, dtype=dtype, seed=2)
    bias, found = random(64, seed=3), []
    for count, first in ((1, 0), (2, 0), (5, 0), (2, 20)):
        torch.set_num_threads(count)
        arguments = arguments_of(x[first:], weight, bias, 6)
        find_binder("cpu.moe_gate")(arguments)()
        found.append([arguments[name][-1:] for name in ("logits", "weights", "ids")])
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


def test_a_step_of_many_tokens_is_left_to_torch() -> None:
    x, weight = random(FEW_TOKENS + 1, 24), random(16, 24, seed=2)
    run("moe_gate", by_torch=True, **arguments_of(x, weight, random(16, seed=3), 4))


def test_operands_of_other_sizes_and_dtypes_are_refused() -> None:
    """In C they would be read and written beyond their ends."""
    good = arguments_of(random(40, 64), random(8, 64), random(8), 2)
    for name, wrong in (
        ("ids", torch.full((3, 2), -1)),
        ("logits", nan(3, 8)),
        ("logits", nan(40, 8, dtype=torch.bfloat16)),
        ("choice", nan(40, 8, dtype=torch.bfloat16)),
        ("weights", nan(40, 2, dtype=torch.bfloat16)),
        ("weight", random(8, 32)),
    ):
        with pytest.raises(PlanError):
            find_binder("cpu.moe_gate")({**good, name: wrong})

"""Every variant to score and choose experts against the semantic op: ties, groups, fills, NaN."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmc.ir.ops import moe as semantic
from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cuda import workspace
from glmc_runtime.kernels.cuda.moe import router as moe_gate
from tests.runtime.kernels.harness import nan, random
from tests.support.thinned import crossed

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RUNS = 2 if torch.cuda.is_available() else 1
HIDDEN, EXPERTS, TOP_K = 40, 16, 4
VARIANTS: dict[str, dict[str, Any]] = {
    "rows": {"variant": "rows", "block_e": 2, "warps": 4},
    "library": {"variant": "library"},
}


def call(tokens: int, dtype: torch.dtype = torch.float32, **constants: Any) -> dict[str, Any]:
    experts, top_k = constants.pop("experts", EXPERTS), constants.pop("top_k", TOP_K)
    tensors = {
        "x": random(tokens, HIDDEN, dtype=dtype, seed=tokens),
        "weight": (random(experts, HIDDEN, seed=2) / 4).to(dtype),
        "bias": random(experts, seed=3) / 4,
        "logits": nan(tokens, experts),
        "weights": nan(tokens, top_k),
        "ids": torch.full((tokens, top_k), -1),
    }
    settings = {
        "groups": 1,
        "top_groups": 1,
        "group_fill": 0.0,
        "normalize": True,
        "normalize_eps": 1e-20,
        "scale": 2.5,
    }
    return {**{k: v.to(DEVICE) for k, v in tensors.items()}, **settings, **constants}


def run(arguments: dict[str, Any], configuration: dict[str, Any] | None = None) -> None:
    """Run on poisoned memory: the same bits, and all counters back at zero."""
    thunk = find_binder("cuda.moe_gate")({**arguments, "configuration": configuration})
    runs = []
    for _ in range(RUNS):
        workspace.floats(DEVICE, 1 << 14).fill_(torch.nan)
        for name in ("logits", "weights"):
            arguments[name].fill_(torch.nan)
        arguments["ids"].fill_(-1)
        thunk()
        runs.append([arguments[name].clone() for name in ("logits", "weights", "ids")])
    for one, other in zip(runs[0], runs[-1], strict=True):
        assert torch.equal(one, other)
    assert not workspace.arrival_counters(DEVICE, 64).any()


def reference(arguments: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The semantic op, its choice sorted as ours: the best first."""
    names = ("groups", "top_groups", "group_fill", "normalize", "normalize_eps", "scale")
    tensors = [arguments[name] for name in ("x", "weight", "bias")]
    top_k = arguments["ids"].shape[1]
    return semantic.moe_gate(*tensors, top_k, *(arguments[name] for name in names))


def check(arguments: dict[str, Any], configuration: dict[str, Any] | None = None) -> None:
    run(arguments, configuration)
    weights, ids = reference(arguments)
    found, order = arguments["ids"].sort(-1)
    expected, expected_order = ids.sort(-1)
    assert torch.equal(found, expected)
    torch.testing.assert_close(
        arguments["weights"].gather(1, order),
        weights.gather(1, expected_order),
        atol=2e-6,
        rtol=2e-6,
    )


CHOICES = ((1, 1, 0.0, True), (4, 4, 0.0, False), (4, 2, 0.0, False), (8, 3, -torch.inf, True))
DTYPES = (torch.float32, torch.bfloat16)


# A dtype only changes how operands are read: each choice has one of them.
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("choice", "dtype"), crossed(CHOICES, DTYPES, quick=list(zip(CHOICES, DTYPES * 2, strict=True)))
)
def test_variants(variant: str, choice: tuple[int, int, float, bool], dtype: torch.dtype) -> None:
    groups, top_groups, fill, normalize = choice
    constants = {"groups": groups, "top_groups": top_groups, "group_fill": fill}
    tokens = 3 if variant == "rows" else 18
    check(call(tokens, dtype, normalize=normalize, **constants), VARIANTS[variant])


@pytest.mark.parametrize("variant", VARIANTS)
def test_numbers_that_are_no_powers_of_two(variant: str) -> None:
    check(call(2, experts=21, top_k=5), VARIANTS[variant])
    constants = {"groups": 3, "top_groups": 2, "group_fill": -torch.inf}
    check(call(2, experts=21, top_k=5, **constants), VARIANTS[variant])
    check(call(1, experts=5, top_k=5), VARIANTS[variant])


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_below_the_fill_let_other_groups_in(variant: str) -> None:
    """With a fill of 0.0 and all choices negative, experts outside the best groups win."""
    arguments = call(3, groups=4, top_groups=1, top_k=3)
    arguments["bias"].sub_(5.0)
    run(arguments, VARIANTS[variant])
    weights, _ = reference(arguments)
    # Which ones is open in the op, as all are equal; with us the lowest.
    scores = (arguments["x"] @ arguments["weight"].t()).sigmoid()
    by_group = (scores + arguments["bias"]).view(3, 4, -1)
    best = by_group.topk(2, -1)[0].sum(-1).argmax(-1)
    for token, group in enumerate(best.tolist()):
        outside = [e for e in range(EXPERTS) if e // 4 != group]
        assert arguments["ids"][token].tolist() == outside[:3]
    assert weights.shape == arguments["weights"].shape


@pytest.mark.parametrize("variant", VARIANTS)
def test_ties_go_to_the_lowest_id(variant: str) -> None:
    arguments = call(3)
    arguments["weight"].zero_()
    arguments["bias"].zero_()
    arguments["bias"][9] = 1.0
    run(arguments, VARIANTS[variant])
    assert arguments["ids"].tolist() == [[9, 0, 1, 2]] * 3
    assert torch.equal(arguments["weights"], torch.full((3, TOP_K), 0.625, device=DEVICE))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("groups", [1, 4])
def test_what_is_no_number_still_gives_ids_of_experts(variant: str, groups: int) -> None:
    for value in (torch.nan, torch.inf):
        arguments = call(1, groups=groups, top_groups=1, group_fill=-torch.inf)
        arguments["x"][0] = value
        run_once = find_binder("cuda.moe_gate")({**arguments, "configuration": VARIANTS[variant]})
        run_once()
        ids = arguments["ids"]
        assert ids.min() >= 0 and ids.max() < EXPERTS
        assert all(len(set(row)) == TOP_K for row in ids.tolist())


def test_defaults_serve_all_numbers_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moe_gate, "MOST_ROWS", 2)
    monkeypatch.setattr(moe_gate, "_CHUNK", 16)
    variants = []
    for tokens in (2, 18):
        check(call(tokens, torch.bfloat16))
        variants.append(moe_gate.default(tokens)["variant"])
    assert variants == ["rows", "library"]


def test_candidates_start_with_the_default_and_serve() -> None:
    for tokens in (1, 64, 1024):
        found = list(moe_gate.candidates(tokens))
        assert found[0] == moe_gate.default(tokens)
        keys = {"rows": 3, "library": 1}
        assert all(len(one) == keys[one["variant"]] for one in found)


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PlanError, match="fit together"):
        run(call(2, groups=3, top_groups=1))
    with pytest.raises(PlanError, match="no variant 'sideways'"):
        run(call(2), {"variant": "sideways"})


def test_a_weight_has_one_copy_in_float32() -> None:
    """For all sizes of a step; after a change in place there is another."""
    weight = torch.randn(4, 8).to(torch.bfloat16)
    wide = moe_gate._in_float32(weight)
    assert wide.dtype == torch.float32 and moe_gate._in_float32(weight) is wide
    weight.mul_(2)
    assert torch.equal(moe_gate._in_float32(weight), 2 * wide)
    assert moe_gate._in_float32(wide) is wide

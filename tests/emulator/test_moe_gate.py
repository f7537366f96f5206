"""Routing against the formula written out per token, and the limits on experts."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from glmc_kunlun_emulator import EmulatedVendor, GuardError, load


def outputs(tokens: int, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and weights, filled with recognisable numbers."""
    return torch.full((tokens, top_k), 77, dtype=torch.int32), torch.full((tokens, top_k), 77.0)


def sigmoid_gate(vendor: EmulatedVendor, x: torch.Tensor, **arguments: Any) -> None:
    """Call with the histogram's name in this profile."""
    name = "block_statistic" if vendor.profile == "P-C" else "block_static"
    histogram = arguments.pop("histogram", None)
    vendor.kunlun_ops.moe_sigmoid_group_topk_norm(x=x, **{name: histogram}, **arguments)


def reference(
    logits: torch.Tensor, bias: torch.Tensor, top_k: int, groups: int, kept: int, scale: float
) -> list[dict[int, float]]:
    """Expert to weight for each token, with Python's own sort."""
    rows = []
    for row in logits.double():
        scores = (1 / (1 + (-row).exp())).tolist()
        choice = [score + float(b) for score, b in zip(scores, bias, strict=True)]
        size = len(scores) // groups
        strength = [
            sum(sorted(choice[group * size : (group + 1) * size])[-2:]) for group in range(groups)
        ]
        best_groups = sorted(range(groups), key=lambda group: -strength[group])[:kept]
        allowed = [expert for expert in range(len(scores)) if expert // size in best_groups]
        best = sorted(allowed, key=lambda expert: -choice[expert])[:top_k]
        total = sum(scores[expert] for expert in best)
        rows.append({expert: scores[expert] / total * scale for expert in best})
    return rows


@pytest.mark.parametrize(("groups", "kept"), [(1, 1), (4, 2)])
def test_sigmoid_gate(vendor: EmulatedVendor, groups: int, kept: int) -> None:
    logits, bias = torch.randn(9, 16), torch.randn(16)
    ids, weights = outputs(9, 4)
    histogram = torch.zeros(12, 16, dtype=torch.int32)
    sigmoid_gate(
        vendor, logits, topk_index=ids, norm_score=weights, histogram=histogram, bias=bias,
        scale=2.5, n_group=groups, topk_group=kept,
    )  # fmt: skip
    for token, want in enumerate(reference(logits, bias, 4, groups, kept, 2.5)):
        got = dict(zip(ids[token].tolist(), weights[token].tolist(), strict=True))
        assert got == pytest.approx(want, rel=1e-5)
    torch.testing.assert_close(weights.sum(-1), torch.full((9,), 2.5))
    assert histogram.sum(0).tolist() == torch.bincount(ids.flatten(), minlength=16).tolist()
    assert int(histogram.sum(1).ne(0).sum()) == 9  # spread over clusters, one token each


def test_bias_moves_the_choice_but_not_the_weights(vendor: EmulatedVendor) -> None:
    logits, bias = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0.0, 0.0, 10.0])
    ids, weights = outputs(1, 2)
    sigmoid_gate(
        vendor, logits, topk_index=ids, norm_score=weights, bias=bias, scale=1.0, n_group=1,
        topk_group=1,
    )  # fmt: skip
    assert ids.tolist() == [[2, 0]]
    scores = logits.sigmoid()[0, [2, 0]]
    torch.testing.assert_close(weights[0], scores / scores.sum())


def test_more_than_512_experts_is_silent_garbage(
    vendor: EmulatedVendor, unguarded: EmulatedVendor
) -> None:
    for face, untouched in ((vendor, -1), (unguarded, 77)):
        ids, weights = outputs(3, 4)
        sigmoid_gate(
            face, torch.randn(3, 513), topk_index=ids, norm_score=weights, bias=None, scale=1.0,
            n_group=1, topk_group=1,
        )  # fmt: skip
        assert ids.eq(untouched).all()
        assert bool(weights.isnan().all()) == (untouched == -1)
    ids, weights = outputs(3, 4)
    sigmoid_gate(
        vendor, torch.randn(3, 512), topk_index=ids, norm_score=weights, bias=None, scale=1.0,
        n_group=1, topk_group=1,
    )  # fmt: skip
    assert ids.ge(0).all()


def test_spelling_of_the_histogram_differs() -> None:
    for profile, name in (
        ("P-A", "block_static"),
        ("P-B", "block_static"),
        ("P-C", "block_statistic"),
    ):
        gate = load(profile).kunlun_ops.moe_sigmoid_group_topk_norm
        assert name in inspect.signature(gate).parameters
        ids, weights = outputs(1, 1)
        other = "block_static" if name == "block_statistic" else "block_statistic"
        with pytest.raises(TypeError, match="block_stat"):
            gate(
                x=torch.zeros(1, 4), topk_index=ids, norm_score=weights, bias=None, scale=1.0,
                n_group=1, topk_group=1, **{other: None},
            )  # fmt: skip


def test_a_used_histogram_is_refused(vendor: EmulatedVendor) -> None:
    ids, weights = outputs(2, 2)
    with pytest.raises(GuardError, match="zero it"):
        sigmoid_gate(
            vendor, torch.randn(2, 4), topk_index=ids, norm_score=weights,
            histogram=torch.ones(12, 4, dtype=torch.int32), bias=None, scale=1.0, n_group=1,
            topk_group=1,
        )  # fmt: skip


def test_bad_sigmoid_calls(vendor: EmulatedVendor) -> None:
    ids, weights = outputs(2, 2)
    good: dict[str, Any] = dict(
        topk_index=ids, norm_score=weights, bias=None, scale=1.0, n_group=1, topk_group=1
    )
    for x, broken in (
        (torch.randn(2, 4).half(), {}),
        (torch.randn(4, 2).t(), {}),
        (torch.randn(2, 4), dict(topk_index=ids.long())),
        (torch.randn(2, 4), dict(norm_score=weights.half())),
        (torch.randn(2, 4), dict(n_group=0, topk_group=0)),
        (torch.randn(2, 4), dict(n_group=3)),
        (torch.randn(2, 4), dict(bias=torch.zeros(4).half())),
        (torch.randn(2, 4), dict(histogram=torch.zeros(4, dtype=torch.int32))),
        (torch.randn(2, 1), {}),
    ):
        with pytest.raises(ValueError, match="Check 0 == ret failed"):
            sigmoid_gate(vendor, x, **{**good, **broken})

"""Emulated samplers (record, section 2.11).

All return or write token ids. They are not seedable per request; here the draw comes from torch's
global generator, so that `torch.manual_seed` makes a test repeatable. Filtering follows the usual
reading: top k keeps the k largest (ties included), top p the smallest set of the most likely tokens
whose mass reaches p; with both, both filters apply to the given probabilities (assumption).
"""

from __future__ import annotations

import torch

from .contract import require, require_dtype, require_shape, vendor_op


def _per_row(
    place: str, name: str, value: torch.Tensor | float | int, probs: torch.Tensor
) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        require(value.numel() == probs.shape[0], f"{place}({name}=)", "one a row", value.shape)
        return value.reshape(-1, 1)
    return torch.full((probs.shape[0], 1), value, device=probs.device)


def _keep_top_k(probs: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    rank = top_k.long().clamp(1, probs.shape[-1]) - 1
    threshold = probs.sort(dim=-1, descending=True).values.gather(1, rank)
    return probs >= threshold


def _keep_top_p(probs: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = before < top_p
    kept[:, 0] = True
    return torch.zeros_like(kept).scatter_(1, order, kept)


def _check(place: str, probs: torch.Tensor) -> None:
    require_dtype(place, "probs", probs, torch.float32)
    require(probs.dim() == 2, f"{place}(probs=)", "[B, V]", tuple(probs.shape))


def _draw(probs: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    masked = probs.masked_fill(~kept, 0.0)
    return torch.multinomial(masked, 1).reshape(-1).to(torch.int32)


@vendor_op("top_k_sampling_from_probs")
def top_k_sampling_from_probs(
    probs: torch.Tensor, top_k: torch.Tensor | int, deterministic: bool = True
) -> torch.Tensor:
    """Ids int32 [B] drawn from probs fp32 [B, V] among the top k."""
    _check("top_k_sampling_from_probs", probs)
    limit = _per_row("top_k_sampling_from_probs", "top_k", top_k, probs)
    return _draw(probs, _keep_top_k(probs, limit))


@vendor_op("top_p_sampling_from_probs")
def top_p_sampling_from_probs(
    probs: torch.Tensor, top_p: torch.Tensor | float, deterministic: bool = True
) -> torch.Tensor:
    """Ids int32 [B] drawn from probs fp32 [B, V] among the nucleus of mass top_p."""
    _check("top_p_sampling_from_probs", probs)
    mass = _per_row("top_p_sampling_from_probs", "top_p", top_p, probs)
    return _draw(probs, _keep_top_p(probs, mass))


@vendor_op("top_k_top_p_sampling_from_probs")
def top_k_top_p_sampling_from_probs(
    probs: torch.Tensor,
    top_k: torch.Tensor | int,
    top_p: torch.Tensor | float,
    deterministic: bool = True,
) -> torch.Tensor:
    """Both filters; a top_k tensor must be int32."""
    place = "top_k_top_p_sampling_from_probs"
    _check(place, probs)
    if isinstance(top_k, torch.Tensor):
        require_dtype(place, "top_k", top_k, torch.int32)
    kept = _keep_top_k(probs, _per_row(place, "top_k", top_k, probs))
    return _draw(probs, kept & _keep_top_p(probs, _per_row(place, "top_p", top_p, probs)))


@vendor_op("rejection_greedy_sample", in_place=("output_token_ids",))
def rejection_greedy_sample(
    output_token_ids: torch.Tensor,
    cu_num_draft_tokens: torch.Tensor,
    draft_token_ids: torch.Tensor,
    target_argmax: torch.Tensor,
    bonus_token_ids: torch.Tensor,
    is_greedy: torch.Tensor | None,
    max_spec_len: int,
) -> None:
    """Accept drafts while they equal the target's choice, then the bonus token.

    output_token_ids int32 [B, S+1] prefilled with -1 (slots after the first refusal stay as they
    are), cu_num_draft_tokens [B] inclusive prefix sums, draft_token_ids and target_argmax [sum],
    bonus_token_ids [B], is_greedy bool [B] or None for all.
    """
    place = "rejection_greedy_sample"
    ends = cu_num_draft_tokens.tolist()
    require_dtype(place, "output_token_ids", output_token_ids, torch.int32)
    require_shape(place, "output_token_ids", output_token_ids, (len(ends), max_spec_len + 1))
    start = 0
    for row, stop in enumerate(ends):
        if is_greedy is None or bool(is_greedy[row]):
            drafts, targets = draft_token_ids[start:stop], target_argmax[start:stop]
            agree = (drafts == targets).long().cumprod(dim=0)
            accepted = int(agree.sum())
            written = min(accepted + 1, stop - start)
            output_token_ids[row, :written] = targets[:written].to(torch.int32)
            if accepted == stop - start:
                output_token_ids[row, accepted] = bonus_token_ids.reshape(-1)[row].to(torch.int32)
        start = stop


@vendor_op("inplace_exponential", namespace="xspeedgate_ops", in_place=("q",))
def inplace_exponential(q: torch.Tensor, generator: torch.Generator | None = None) -> None:
    """Fill q with draws of the standard exponential distribution."""
    q.exponential_(generator=generator)

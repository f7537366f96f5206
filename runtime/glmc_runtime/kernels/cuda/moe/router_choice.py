"""From the router's logits to the chosen experts and their weights, inside a kernel."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _best(values, open_, lane, SIZE: tl.constexpr):
    """The largest of ``values`` [T, SIZE] where ``open_``, and the lowest lane that has it."""
    best = tl.max(tl.where(open_, values, float("-inf")), 1)
    places = tl.where(open_ & (values == best[:, None]), lane[None, :], SIZE)
    return best, tl.min(places, 1)


@triton.jit
def _outside_best_groups(
    choice,
    lane,
    E: tl.constexpr,
    EXPERTS: tl.constexpr,
    GROUPS: tl.constexpr,
    TOP_GROUPS: tl.constexpr,
    SLOTS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Where [TOKENS, EXPERTS] an expert's group is none of the TOP_GROUPS best by the sum of its
    two best choices."""
    slot = tl.arange(0, SLOTS)
    score = tl.full([TOKENS, SLOTS], float("-inf"), tl.float32)
    for group in tl.static_range(GROUPS):
        member = (lane // (E // GROUPS) == group)[None, :] & (choice == choice)
        first, at = _best(choice, member, lane, EXPERTS)
        second, _ = _best(choice, member & (lane[None, :] != at[:, None]), lane, EXPERTS)
        score = tl.where((slot == group)[None, :], (first + second)[:, None], score)
    open_ = (slot < GROUPS)[None, :] & (score == score)
    dropped = lane[None, :] >= tl.zeros([TOKENS, 1], tl.int32)
    for _ in tl.static_range(TOP_GROUPS):
        _, at = _best(score, open_, slot, SLOTS)
        open_ = open_ & (slot[None, :] != at[:, None])
        dropped = dropped & ((lane // (E // GROUPS))[None, :] != at[:, None])
    return dropped


@triton.jit
def choose_experts(
    logit,
    bias,
    weights,
    ids,
    token,
    tokens,
    scale,
    E: tl.constexpr,
    EXPERTS: tl.constexpr,
    TOP_K: tl.constexpr,
    PLACES: tl.constexpr,
    GROUPS: tl.constexpr,
    TOP_GROUPS: tl.constexpr,
    SLOTS: tl.constexpr,
    FILL: tl.constexpr,
    NORMALIZE: tl.constexpr,
    EPS: tl.constexpr,
):
    """Write weights and ids [tokens, TOP_K] of the rows ``token`` from ``logit`` [T, EXPERTS].

    The best first; of equal ones the lowest id. Any id written is one of an expert, whatever the
    logits are: those that are no numbers count as the smallest. EXPERTS, PLACES and SLOTS are
    powers of two, of at least E, TOP_K and GROUPS.
    """
    TOKENS: tl.constexpr = token.shape[0]
    lane = tl.arange(0, EXPERTS)
    real = (lane < E)[None, :]
    score = tl.div_rn(1.0, 1.0 + tl.exp(-logit))
    choice = score + tl.load(bias + lane, mask=lane < E, other=0.0)[None, :]
    choice = tl.where(choice == choice, choice, float("-inf"))
    if GROUPS != TOP_GROUPS:
        dropped = _outside_best_groups(choice, lane, E, EXPERTS, GROUPS, TOP_GROUPS, SLOTS, TOKENS)
        choice = tl.where(dropped, FILL, choice)
    place = tl.arange(0, PLACES)
    open_ = real & (choice == choice)
    kept = tl.zeros([TOKENS, PLACES], tl.float32)
    experts = tl.zeros([TOKENS, PLACES], tl.int32)
    for step in tl.static_range(TOP_K):
        _, at = _best(choice, open_, lane, EXPERTS)
        hit = lane[None, :] == at[:, None]
        open_ = open_ & (lane[None, :] != at[:, None])
        value = tl.sum(tl.where(hit, score, 0.0), 1)
        kept = tl.where((place == step)[None, :], value[:, None], kept)
        experts = tl.where((place == step)[None, :], at[:, None], experts)
    if NORMALIZE:
        kept = tl.div_rn(kept, (tl.sum(kept, 1) + EPS)[:, None])
    mask = (token < tokens)[:, None] & (place < TOP_K)[None, :]
    at = token[:, None] * TOP_K + place[None, :]
    tl.store(weights + at, kept * scale, mask=mask)
    tl.store(ids + at, experts.to(tl.int64), mask=mask)


@triton.jit(do_not_specialize=["tokens"])
def choose_kernel(
    logits,
    bias,
    weights,
    ids,
    tokens,
    scale,
    E: tl.constexpr,
    EXPERTS: tl.constexpr,
    TOP_K: tl.constexpr,
    PLACES: tl.constexpr,
    GROUPS: tl.constexpr,
    TOP_GROUPS: tl.constexpr,
    SLOTS: tl.constexpr,
    FILL: tl.constexpr,
    NORMALIZE: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    PDL: tl.constexpr,
):
    """The choice as a launch of its own, from logits float32 [tokens, E]: grid (token blocks)."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    lane = tl.arange(0, EXPERTS)
    mask = (token < tokens)[:, None] & (lane < E)[None, :]
    logit = tl.load(logits + token[:, None] * E + lane[None, :], mask=mask, other=0.0)
    choose_experts(
        logit,
        bias,
        weights,
        ids,
        token,
        tokens,
        scale,
        E,
        EXPERTS,
        TOP_K,
        PLACES,
        GROUPS,
        TOP_GROUPS,
        SLOTS,
        FILL,
        NORMALIZE,
        EPS,
    )

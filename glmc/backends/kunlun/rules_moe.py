"""The router and the routed experts as Kunlun calls."""

from __future__ import annotations

from functools import partial

import torch

from glmc.backends.kunlun import limits
from glmc.backends.kunlun.emit import Passed, cast, cast_weight, vendor, zeroed
from glmc.backends.kunlun.rules_dense import gate_times_up, torch_product
from glmc.ir.recipe import Constant, Weight
from glmc.lowering.target import Emitter, Op, Value, fixed
from glmc.lowering.values import as_rows, product, view
from glmc_runtime.format.extent import Extent
from glmc_runtime.kernels.vendor_functions.experts import CLUSTERS, NEGATIVE_IDS


def moe_gate(op: Op, emit: Emitter) -> None:
    """float32 logits, then the vendor's router where it can keep the op's meaning, else ours.

    The choice of experts comes out as int32, the only index dtype of the vendor's expert kernels;
    other readers of it get a cast.
    """
    x, bias = as_rows(op.tensor("x")), op.tensor("bias")
    weight = cast_weight(emit, op.tensor("weight"), torch.float32)
    tokens, experts, top_k = x.shape[0], weight.dim(0), op.integer("top_k")
    limits.check_experts(experts, op.node)
    limits.check_index_dtype(bias.dtype, torch.float32, "bias", op.node)
    logits = emit.temporary("logits", (tokens, fixed(experts)), torch.float32)
    scores = emit.result(0)
    ids = emit.temporary("ids", (tokens, fixed(top_k)), torch.int32)
    torch_product(emit, cast(emit, x, torch.float32), weight, None, logits)
    statistic = _zeroed_statistic(emit, experts)
    reason = unfused_reason(op)
    if reason is None:
        vendor(
            emit,
            "moe_sigmoid_group_topk_norm",
            x=logits,
            topk_index=ids,
            norm_score=scores,
            block_statistic=statistic,
            bias=bias,
            scale=op.number("scale"),
            n_group=1,
            topk_group=1,
        )
    else:
        emit.remark(f"router in torch, not the vendor's kernel: {reason}")
        family = "ordered" if emit.options.deterministic else "router"
        emit.call(
            f"{family}.sigmoid_group_topk",
            writes=("weights", "ids"),
            logits=logits,
            bias=bias,
            top_k=top_k,
            groups=op.integer("groups"),
            top_groups=op.integer("top_groups"),
            fill=op.number("group_fill"),
            normalize=op.flag("normalize"),
            eps=op.number("normalize_eps"),
            scale=op.number("scale"),
            weights=scores,
            ids=ids,
        )
        vendor(emit, "gen_block_statistic", topk_ids=ids, block_statistic=statistic)
    emit.notes[_statistic_key(ids, emit)] = statistic
    emit.bind(1, ids)


def unfused_reason(op: Op) -> str | None:
    """Why the vendor's router can't stand for this gate, or None when it can."""
    groups, top_groups = op.integer("groups"), op.integer("top_groups")
    if groups != top_groups:
        return f"it is not known what it does with experts outside the {top_groups} best groups"
    if not op.flag("normalize"):
        return "it always divides by the sum of the weights"
    if op.number("normalize_eps") > limits.ABSORBED_EPS:
        return f"it adds no eps to the sum, and {op.number('normalize_eps'):g} would be missed"
    return None


def moe_ffn(op: Op, emit: Emitter) -> None:
    """Sort by expert, two grouped products with swiglu between, weighted sum.

    Between the first and the last call rows are in the order of the experts; nothing else may
    read them. The fused activation stays off: it is known to be wrong from 1024 tokens.
    """
    ids = cast(emit, op.tensor("ids"), torch.int32)
    _experts(op, emit, op.tensor("weights"), ids)


def local_moe_ffn(op: Op, emit: Emitter) -> None:
    """The same for one rank's experts: the others' ids become -1 and their scores zero.

    The vendor's functions leave the rows of such slots as they are, and the weighted sum reads all
    rows: what it may find there is zeroed first.
    """
    ids, experts = op.tensor("ids"), op.tensor("gate_up").dim(0)
    profile = emit.options.abi_profile
    if profile not in NEGATIVE_IDS:
        emit.remark(
            "--expert-parallel marks the experts of other ranks by ids of -1, which no public "
            f"caller gives to the wheels of {profile}: untried on a card"
        )
    local = emit.temporary("local_ids", ids.shape, torch.int32)
    scores = emit.temporary("local_scores", ids.shape, torch.float32)
    emit.call(
        "aten.local_experts",
        writes=("places", "foreign", "beyond", "local", "scores"),
        ids=ids,
        weights=op.tensor("weights"),
        first=op.tensor("first"),
        experts=experts,
        places=emit.temporary("places", ids.shape, ids.dtype),
        foreign=emit.temporary("foreign", ids.shape, torch.bool),
        beyond=emit.temporary("beyond", ids.shape, torch.bool),
        local=local,
        scores=scores,
    )
    _experts(op, emit, scores, local, have_negative=True)


def _experts(
    op: Op, emit: Emitter, weights: Value, ids: Value, have_negative: bool = False
) -> None:
    """The chain for int32 ids; ``have_negative``: slots of -1 are no expert's."""
    x, gate_up, down = as_rows(op.tensor("x")), op.tensor("gate_up"), op.tensor("down")
    experts, hidden, width = gate_up.dim(0), gate_up.dim(2), down.dim(2)
    limits.check_experts(experts, op.node)
    tokens, top_k = ids.shape[0], ids.dim(1)
    slots = tokens * top_k
    int32 = torch.int32
    statistic = emit.notes.get(_statistic_key(ids, emit))
    if statistic is None:
        statistic = _zeroed_statistic(emit, experts)
        vendor(emit, "gen_block_statistic", topk_ids=ids, block_statistic=statistic)
    expert_counts = zeroed(emit, "expert_counts", (fixed(experts),), int32)
    lod = zeroed(emit, "expert_lod", (fixed(experts + 1),), int32)
    filled = partial(zeroed, emit) if have_negative else emit.temporary
    index = filled("sorted_index", (slots,), int32)
    expanded = emit.temporary("expanded", (slots, fixed(hidden)), x.dtype)
    vendor(
        emit,
        "moe_pre_sorted",
        x=x,
        topk_index=ids,
        block_statistic=statistic,
        moe_expand=expanded,
        moe_index=index,
        expert_m=expert_counts,
        sorted_tokens_num_lod=lod,
        index_have_neg=have_negative,
    )
    both = filled("gate_up", (tokens, fixed(top_k), fixed(2 * width)), x.dtype)
    activated = emit.temporary("activated", (tokens, fixed(top_k), fixed(width)), x.dtype)
    result = filled("expert_rows", (tokens, fixed(top_k), fixed(hidden)), x.dtype)
    shared: dict[str, Passed] = {
        "sorted_tokens_num_lod": lod,
        "sorted_tokens_idx": index,
        "moe_topk": top_k,
        "act": None,
    }
    vendor(emit, "moe_fc", x=expanded, weight=gate_up, y=both, **shared)
    gate_times_up(emit, both, activated, op.node)
    vendor(emit, "moe_fc", x=view(activated, slots, width), weight=down, y=result, **shared)
    vendor(
        emit,
        "moe_post",
        x=result,
        moe_index=view(index, tokens, top_k),
        normed_scale=weights,
        dequant_scale=_ones(emit, tokens, top_k),
        y=as_rows(emit.result()),
    )


def _zeroed_statistic(emit: Emitter, experts: int) -> Value:
    return zeroed(emit, "block_statistic", (fixed(CLUSTERS), fixed(experts)), torch.int32)


def _statistic_key(ids: Value, emit: Emitter) -> str:
    """By storage: names of temporaries are not unique."""
    return f"block_statistic of {emit.stamp(ids)}"


def _ones(emit: Emitter, tokens: Extent, top_k: int) -> Value:
    """The dequantisation scale of a weight that is not quantised; made once for all layers."""
    shape = (tokens, fixed(top_k))
    key = f"ones {product(shape)} {top_k}"
    if key not in emit.notes:
        one = emit.weight(Weight("one", (1,), torch.float32, Constant((1.0,))))
        ones = zeroed(emit, "ones", shape, torch.float32)
        emit.call("aten.add", writes=("out",), x=ones, y=one, out=ones)
        emit.notes[key] = ones
    return emit.notes[key]


RULES = {"moe_gate": moe_gate, "moe_ffn": moe_ffn, "local_moe_ffn": local_moe_ffn}
AS_MADE = frozenset({("moe_ffn", "ids"), ("local_moe_ffn", "ids")})

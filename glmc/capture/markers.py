"""Marked capture: attention and experts as named nodes.

transformers looks both up by name in registries of its own. What is registered here leaves one
``glmc.marked_attention`` or ``glmc.marked_experts`` node each, and no code for masks at all. The
passes read both roads; tests hold the results against each other.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from glmc.errors import CaptureError
from glmc.ir.ops.marked import MARKED_ATTENTION, MARKED_EXPERTS

ATTENTION = "glmc_marked"
EXPERTS = "glmc_marked"


def register() -> None:
    """Enter the functions into transformers' registries; harmless when done twice.

    transformers before 5 has no registry of experts; legacy.py stacks its experts instead.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, _no_mask)
    try:
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    except ImportError:
        return
    ALL_EXPERTS_FUNCTIONS.register(EXPERTS, _experts)


def _no_mask(*_: object, **__: object) -> None:
    """The marked node is causal by definition, so no mask is built."""


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    reason = None
    if attention_mask is not None:
        reason = "a mask tensor"
    elif dropout:
        reason = f"dropout={dropout}"
    elif options.get("sliding_window") is not None:
        reason = f"sliding_window={options['sliding_window']}"
    elif not getattr(module, "is_causal", True):
        reason = "is_causal=False"
    if reason is not None:
        raise CaptureError(
            f"{type(module).__name__} asks for attention that no marker stands for",
            expected="causal attention without dropout or a window",
            found=reason,
            remedy="capture without markers",
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    return MARKED_ATTENTION.overload(query, key, value, scale), None


def _experts(module: Any, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """``module`` holds gate_up_proj and down_proj stacked, [experts, out, in]."""
    if not _plain(module):
        raise CaptureError(
            f"{type(module).__name__} holds experts that no marker stands for",
            expected="silu experts, gate and up in one matrix, no biases, no norm after them",
            remedy="capture without markers",
        )
    experts = MARKED_EXPERTS.overload(hidden, ids, weights, module.gate_up_proj, module.down_proj)
    return experts  # type: ignore[no-any-return]


def _plain(module: Any) -> bool:
    unusual = ("has_bias", "is_transposed", "has_post_expert_norm", "_is_expert_parallel")
    # nn.SiLU, or transformers' own class of that name.
    silu = "SiLU" in type(getattr(module, "act_fn", None)).__name__
    gated = getattr(module, "has_gate", True)
    return silu and gated and not any(getattr(module, name, False) for name in unusual)

"""The two shipped architectures: GLM-4.5 (mixture of experts) and GLM-4 (dense), very small.

Every switch stands as in the published checkpoints; only the sizes are cut down.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from transformers import (
    Glm4Config,
    Glm4ForCausalLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    PreTrainedModel,
)

from tiny.tokenizer import VOCAB_SIZE


class Kind(str, Enum):
    """Which of the two models to train."""

    MOE = "moe"
    DENSE = "dense"


def build_model(kind: Kind, stop: list[int]) -> PreTrainedModel:
    """A freshly initialised fp32 model; ``stop`` are the three ids that end a generation."""
    shared: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 128,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 2048,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1_000_000.0 if kind is Kind.MOE else 10_000.0,
            "partial_rotary_factor": 0.5,
        },
        "attention_bias": True,
        "rms_norm_eps": 1e-5,
        # Wider than the published 0.02: about hidden_size ** -0.5, so that so few steps suffice.
        "initializer_range": 0.08,
        "tie_word_embeddings": False,
        "eos_token_id": stop,
        "pad_token_id": stop[0],
    }
    if kind is Kind.DENSE:
        dense = Glm4Config(
            **shared, num_hidden_layers=3, num_attention_heads=4, intermediate_size=192
        )
        return Glm4ForCausalLM(dense)
    mixture = Glm4MoeConfig(
        **shared,
        num_hidden_layers=4,
        # As in GLM-4.5, heads times head size is not the hidden size.
        num_attention_heads=6,
        intermediate_size=384,
        moe_intermediate_size=32,
        n_routed_experts=16,
        num_experts_per_tok=4,
        n_shared_experts=1,
        n_group=1,
        topk_group=1,
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
        first_k_dense_replace=1,
        use_qk_norm=True,
        num_nextn_predict_layers=0,
    )
    return Glm4MoeForCausalLM(mixture)

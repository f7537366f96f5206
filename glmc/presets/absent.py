"""Meaning of a field that config.json does not have (null is the same as absent).

A class default of transformers counts only where absence has a published meaning. Elsewhere the
defaults mislead (``rope_theta`` 1e4 against 1e6, ``attention_bias`` False against True, a
``head_dim`` of hidden / heads against 128), so such a field is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# GlmConfig and Glm4Config fill these in themselves, in 4.x as a default, in 5.x in __post_init__.
_STOPS = (151329, 151336, 151338)
ABSENT: Mapping[str, Mapping[str, Any]] = {
    # zai-org/glm-4-9b-chat-hf was converted before the class had the field, with this value in
    # the code. 5.x: configuration_glm.py, "assign default for BC".
    "GlmForCausalLM": {"partial_rotary_factor": 0.5, "eos_token_id": _STOPS},
    # configuration_glm4.py: the same line; each published file has the field, with this value.
    "Glm4ForCausalLM": {"partial_rotary_factor": 0.5, "eos_token_id": _STOPS},
    # configuration_glm4_moe.py: the same line; the class knows no default for eos_token_id.
    "Glm4MoeForCausalLM": {"partial_rotary_factor": 0.5, "eos_token_id": ()},
}
# What supplies a field that has no such meaning, beside the file itself.
SUPPLIED_BY: Mapping[str, str] = {
    "dtype": "--dtype bfloat16",
    "max_position_embeddings": "--max-context 8192",
}
# Values of the published models, told to whoever has to add the field.
PUBLISHED: Mapping[str, str] = {
    "attention_bias": "true in GLM-4-9B, GLM-4.5, 4.6 and 4.7; false in GLM-4-32B-0414",
    "head_dim": "128",
    "hidden_act": '"silu"',
    "rms_norm_eps": "1e-05; 1.5625e-07 in GLM-4-9B of 2024",
    "rope_theta": "10000.0 in GLM-4-0414 and GLM-Z1, 1000000.0 in GLM-4.5, 4.6 and 4.7",
    "tie_word_embeddings": "false",
    "use_qk_norm": "true in GLM-4.5, 4.6 and 4.7; false in GLM-4.5-Air",
    "first_k_dense_replace": "3 in GLM-4.5, 4.6 and 4.7; 1 in GLM-4.5-Air",
    "routed_scaling_factor": "2.5 in GLM-4.5, 4.6 and 4.7; 1.0 in GLM-4.5-Air",
    "n_group": "1",
    "topk_group": "1",
    "norm_topk_prob": "true",
    "n_shared_experts": "1",
}


def advice(missing: list[str]) -> str:
    """What to do about fields that are asked for: the option, or the published values."""
    lines = ["take config.json from the published checkpoint, or add the fields"]
    for name in missing:
        if name in SUPPLIED_BY:
            lines.append(f"{name}: or pass {SUPPLIED_BY[name]}")
        elif name in PUBLISHED:
            lines.append(f"{name}: published is {PUBLISHED[name]}")
    return "; ".join(lines)

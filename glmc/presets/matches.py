"""Match counts of each pass in a model, counted from its layers.

A compile that finds fewer has lost a fusion somewhere. ``clean`` and ``canonical`` are not here:
how much they tidy depends on the spelling of the traced code and not on the model.
"""

from __future__ import annotations

from typing import Any

from glmc.presets.fields import ModelFields, fields_of


def expected_collectives(config: ModelFields | Any) -> dict[str, int]:
    """Collectives of a step that is dealt to ranks, per op: each attention and each MLP ends with
    one sum, so does the embedding, and the logits are joined."""
    fields = config if isinstance(config, ModelFields) else fields_of(config)
    return {"all_reduce": 2 * fields.num_hidden_layers + 1, "all_gather": 1}


def expected_matches(config: ModelFields | Any) -> dict[str, int]:
    """Matches per pass name, for :class:`ModelFields` or a transformers config object.

    ``rms_norm`` counts every norm (those that ``add_rms_norm`` widens later included, and those of
    q and k), ``rope`` counts q and k apart, ``qk_norm`` the norms of q and k apart,
    ``gate_up_merge`` one per dense layer or shared expert, whether the model keeps the two
    projections apart (``glm4_moe``) or merged them itself, ``kv_cache`` and ``specialise`` one per
    layer.
    """
    fields = config if isinstance(config, ModelFields) else fields_of(config)
    layers = fields.num_hidden_layers
    norms = 4 if fields.architecture == "Glm4ForCausalLM" else 2
    head_norms = 2 * layers if fields.use_qk_norm else 0
    experts = fields.moe_layers
    return {
        "rms_norm": norms * layers + head_norms + 1,
        # Each layer adds to the residual twice; the sum goes to the layer's second norm, the next
        # layer's first norm or the final norm.
        "add_rms_norm": 2 * layers,
        "rope": 2 * layers,
        "qkv_merge": layers,
        "gate_up_merge": layers,
        "qk_norm": head_norms,
        "attention": layers,
        "kv_cache": layers,
        "moe_gate": experts,
        "moe_ffn": experts,
        "shared_expert": experts,
        "specialise": layers,
    }

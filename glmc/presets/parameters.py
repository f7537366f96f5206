"""Names and shapes of all parameters of a model, from its fields alone.

They are the names that transformers gives its modules, with the experts stacked as in 5.x
(``experts.gate_up_proj`` [experts, 2 * width, hidden]) or one module each as in 4.57 and in every
published checkpoint (``experts.3.gate_proj.weight``).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from glmc.presets.fields import ModelFields, MoeFields

Shape = tuple[int, ...]
CORRECTION_BIAS = "e_score_correction_bias"


def parameter_shapes(fields: ModelFields, *, stacked_experts: bool = True) -> dict[str, Shape]:
    """Every tensor of the module's state, in module order.

    Includes the one persistent buffer, the gate's correction bias (float32 whatever the model's
    dtype), and leaves out what is computed (inverse frequencies) and a tied ``lm_head``.
    """
    shapes: dict[str, Shape] = {
        "model.embed_tokens.weight": (fields.vocab_size, fields.hidden_size)
    }
    for layer in range(fields.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        for name, shape in _layer(fields, layer, stacked_experts):
            shapes[prefix + name] = shape
    shapes["model.norm.weight"] = (fields.hidden_size,)
    if not fields.tie_word_embeddings:
        shapes["lm_head.weight"] = (fields.vocab_size, fields.hidden_size)
    return shapes


def parameter_count(fields: ModelFields) -> int:
    """Exact number of parameters, without buffers and without multi-token prediction layers."""
    shapes = parameter_shapes(fields)
    return sum(prod(shape) for name, shape in shapes.items() if not name.endswith(CORRECTION_BIAS))


def _layer(fields: ModelFields, layer: int, stacked: bool) -> Iterator[tuple[str, Shape]]:
    hidden = fields.hidden_size
    query = fields.num_attention_heads * fields.head_dim
    key_value = fields.num_key_value_heads * fields.head_dim
    for name, rows in (("q", query), ("k", key_value), ("v", key_value)):
        yield f"self_attn.{name}_proj.weight", (rows, hidden)
        if fields.attention_bias:
            yield f"self_attn.{name}_proj.bias", (rows,)
    yield "self_attn.o_proj.weight", (hidden, query)
    if fields.use_qk_norm:
        yield "self_attn.q_norm.weight", (fields.head_dim,)
        yield "self_attn.k_norm.weight", (fields.head_dim,)
    if layer < fields.dense_layers:
        yield from _dense(fields)
    elif fields.moe is not None:
        yield from _experts(fields.moe, hidden, stacked)
    for norm in _NORMS[fields.architecture]:
        yield f"{norm}.weight", (hidden,)


_NORMS = {
    "GlmForCausalLM": ("input_layernorm", "post_attention_layernorm"),
    "Glm4ForCausalLM": (
        "input_layernorm",
        "post_attention_layernorm",
        "post_self_attn_layernorm",
        "post_mlp_layernorm",
    ),
    "Glm4MoeForCausalLM": ("input_layernorm", "post_attention_layernorm"),
}


def _dense(fields: ModelFields) -> Iterator[tuple[str, Shape]]:
    hidden, width = fields.hidden_size, fields.intermediate_size
    if fields.moe is None:
        yield "mlp.gate_up_proj.weight", (2 * width, hidden)
        yield "mlp.down_proj.weight", (hidden, width)
    else:
        yield from _separate("mlp", hidden, width)


def _separate(module: str, hidden: int, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{module}.gate_proj.weight", (width, hidden)
    yield f"{module}.up_proj.weight", (width, hidden)
    yield f"{module}.down_proj.weight", (hidden, width)


def _experts(moe: MoeFields, hidden: int, stacked: bool) -> Iterator[tuple[str, Shape]]:
    width, experts = moe.moe_intermediate_size, moe.n_routed_experts
    yield "mlp.gate.weight", (experts, hidden)
    yield f"mlp.gate.{CORRECTION_BIAS}", (experts,)
    if stacked:
        yield "mlp.experts.gate_up_proj", (experts, 2 * width, hidden)
        yield "mlp.experts.down_proj", (experts, hidden, width)
    else:
        for expert in range(experts):
            yield from _separate(f"mlp.experts.{expert}", hidden, width)
    yield from _separate("mlp.shared_experts", hidden, width * moe.n_shared_experts)

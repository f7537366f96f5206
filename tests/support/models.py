"""Tiny random GLM models, their captured programs and their weights, for every test."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn

from glmc.capture.model import CaptureOptions
from glmc.ir.program import ModelShape, Program
from glmc.weights.evaluate import evaluate
from tests.support.captures import remembered

MODERN = int(transformers.__version__.split(".", maxsplit=1)[0]) >= 5

_BASE: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": [1, 2, 3],
}
_MOE: dict[str, Any] = {
    "num_hidden_layers": 3,
    "moe_intermediate_size": 48,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "n_group": 1,
    "topk_group": 1,
    "use_qk_norm": True,
}


def rope_settings(theta: float, partial: float) -> dict[str, Any]:
    """Rope fields in the spelling of the installed transformers."""
    if MODERN:
        parameters = {
            "rope_type": "default",
            "rope_theta": theta,
            "partial_rotary_factor": partial,
        }
        return {"rope_parameters": parameters}
    return {"rope_theta": theta, "partial_rotary_factor": partial}


def tiny_config(family: str, **overrides: Any) -> Any:
    """A config of ``glm``, ``glm4`` or ``glm4_moe`` with a few thousand parameters."""
    fields = {**_BASE, **(_MOE if family == "glm4_moe" else {})}
    theta = 1e6 if family == "glm4_moe" else 1e4
    fields.update(rope_settings(theta, overrides.pop("partial_rotary_factor", 0.5)))
    fields.update(overrides)
    name = {"glm": "GlmConfig", "glm4": "Glm4Config", "glm4_moe": "Glm4MoeConfig"}[family]
    return getattr(transformers, name)(**fields)


def tiny_model(config: Any, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """The stock eager model with random weights: norms near 1, a spread router, live biases."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(seed + 1)

    def random(tensor: Tensor, scale: float, mean: float = 0.0) -> None:
        tensor.data.copy_(mean + scale * torch.randn(tensor.shape, generator=generator))

    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith("e_score_correction_bias"):
            random(tensor, 0.1)
        elif name.endswith("gate.weight"):
            random(tensor, 0.5)
        elif "norm" in name:
            random(tensor, 0.1, 1.0)
        elif name.endswith("bias"):
            random(tensor, 0.1)
        elif "inv_freq" not in name:
            random(tensor, 0.08)
    keep = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model = model.to(dtype)
    for name, buffer in keep.items():
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner)._buffers[leaf] = buffer
    model.requires_grad_(False)
    return model.eval()  # type: ignore[no-any-return]


def model_shape(config: Any) -> ModelShape:
    return ModelShape(
        name="tiny",
        architecture=type(config).__name__.replace("Config", "ForCausalLM"),
        layers=config.num_hidden_layers,
        vocabulary=config.vocab_size,
        hidden=config.hidden_size,
        query_heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        maximum_positions=config.max_position_embeddings,
        eos_token_ids=(1, 2, 3),
        parameters=0,
        tied_embeddings=bool(config.tie_word_embeddings),
    )


def captured(
    config: Any, dtype: torch.dtype = torch.float32, options: CaptureOptions | None = None
) -> Program:
    """The stateless program of a config; traced once in a process, then copied."""
    return remembered(config, model_shape(config), dtype, options)


def weights_of(program: Program, model: nn.Module, rank: int = 0) -> dict[str, Tensor]:
    """The program's weights on a rank, evaluated from a real model's parameters and buffers."""
    tensors = {
        **dict(model.named_parameters()),
        **dict(model.named_buffers()),
        **_stacked_experts(model),
    }
    if program.model.tied_embeddings:
        tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    return {
        name: evaluate(weight.on(rank), lambda key: tensors[key].detach())
        for name, weight in program.weights.items()
    }


def _stacked_experts(model: nn.Module) -> dict[str, Tensor]:
    """transformers before 5 keeps experts in a list; under the names of stacked experts."""
    stacked: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        experts: Any = getattr(module, "experts", None)
        if isinstance(experts, nn.ModuleList):
            gate_up = [torch.cat((item.gate_proj.weight, item.up_proj.weight)) for item in experts]
            stacked[f"{path}.experts.gate_up_proj"] = torch.stack(gate_up)
            down = [item.down_proj.weight for item in experts]
            stacked[f"{path}.experts.down_proj"] = torch.stack(down)
    return stacked


def example_inputs(batch: int = 2, tokens: int = 9, seed: int = 3) -> dict[str, Tensor]:
    """Random token ids and ordinary positions, [batch, tokens]."""
    generator = torch.Generator().manual_seed(seed)
    token_ids = torch.randint(4, 160, (batch, tokens), generator=generator)
    return {
        "token_ids": token_ids,
        "positions": torch.arange(tokens).expand(batch, tokens).contiguous(),
    }


def eager_logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        output = model(
            input_ids=inputs["token_ids"], position_ids=inputs["positions"], use_cache=False
        )
    return output.logits  # type: ignore[no-any-return]

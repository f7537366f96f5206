"""Misfits between the tensors of the files and a config.json, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from glmc.errors import CheckpointError, Lines
from glmc.presets.fields import ModelFields
from glmc.presets.quantised import METHODS, UNQUANTISED
from glmc.weights.layout import NamedShape
from glmc.weights.safetensors_header import FileTensor

# A wrong directory would list a hundred thousand names.
LISTED = 1000
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Endings of tensors that only a quantised checkpoint holds; the first that is found names it.
_MARKS = (
    (".g_idx", "gptq"),
    (".qzeros", "awq"),
    (".weight_scale_inv", "fp8"),
    (".weight_packed", "compressed-tensors"),
    (".quant_state.bitsandbytes__nf4", "bitsandbytes"),
    (".quant_state.bitsandbytes__fp4", "bitsandbytes"),
    (".weight_format", "bitsandbytes"),
    (".SCB", "bitsandbytes"),
    (".absmax", "bitsandbytes"),
    (".weight_scale_2", "modelopt"),
    (".weight_offset", "msmodelslim"),
    (".deq_scale", "msmodelslim"),
    ("_blocks", "mxfp4"),
    (".weight_scale", "compressed-tensors"),
    (".input_scale", "fp8"),
    (".biases", "mlx"),
    (".qweight", "gptq"),
)


@dataclass(frozen=True)
class Problem:
    """A line of the list and the remedy of its kind."""

    text: str
    remedy: str


def quantised_as(names: Iterable[str], dtypes: Iterable[torch.dtype]) -> str | None:
    """The format that tensors of a checkpoint show, None for plain floats."""
    names = tuple(names)
    for ending, method in _MARKS:
        if any(name.endswith(ending) for name in names):
            return METHODS[method]
    strange = sorted({str(d).removeprefix("torch.") for d in dtypes if d not in FLOATS})
    return f"weights in {', '.join(strange)}" if strange else None


def misfits(part: NamedShape, tensor: FileTensor, fields: ModelFields) -> list[Problem]:
    """What is wrong with a tensor that is there."""
    name, shape = part
    file = f"in {tensor.path.name}"
    problems = []
    if tensor.shape != shape:
        line = f"misshapen: {name} {list(tensor.shape)} {file}, expected {list(shape)}"
        problems.append(Problem(line, _of_shape(name, tensor, shape, fields)))
    if tensor.dtype not in FLOATS:
        dtype = str(tensor.dtype).removeprefix("torch.")
        line = f"quantised: {name} {file} is {dtype}, expected a float of 16 bits or more"
        problems.append(Problem(line, UNQUANTISED))
    return problems


def missing(part: NamedShape, fields: ModelFields) -> Problem:
    name, shape = part
    remedy = "complete the download"
    if name == "lm_head.weight":
        remedy = "complete the download, or set tie_word_embeddings to true if the model ties them"
    elif name.endswith("_proj.bias"):
        remedy = "set attention_bias to false in config.json if the model has none"
    elif name.endswith(("q_norm.weight", "k_norm.weight")):
        remedy = "set use_qk_norm to false in config.json if the model has none"
    elif ".experts." in name or ".mlp.gate." in name:
        remedy = (
            "complete the download, or correct n_routed_experts "
            f"({0 if fields.moe is None else fields.moe.n_routed_experts}) or "
            "first_k_dense_replace in config.json"
        )
    return Problem(f"missing: {name} {list(shape)}", remedy)


def surplus(tensor: FileTensor, fields: ModelFields) -> Problem:
    name = tensor.name
    remedy = "remove the tensor, or use the config.json that belongs to these files"
    if name.endswith(("_proj.bias",)):
        remedy = "set attention_bias to true in config.json: transformers would drop these biases"
    elif name.endswith(("q_norm.weight", "k_norm.weight")):
        remedy = "set use_qk_norm to true in config.json (glm4_moe has the field)"
    elif name.endswith(("post_self_attn_layernorm.weight", "post_mlp_layernorm.weight")):
        remedy = "these are norms of Glm4ForCausalLM: correct architectures and model_type"
    elif ".experts." in name:
        remedy = "correct n_routed_experts or first_k_dense_replace in config.json"
    elif "lora_" in name or ".base_layer." in name:
        remedy = "merge the adapter: merge_and_unload() of peft, then save_pretrained"
    elif name.startswith(("module.", "_orig_mod.", "base_model.")):
        prefix = name.partition(".")[0]
        remedy = f"take the prefix '{prefix}.' from the names: the model was saved in a wrapper"
    return Problem(f"surplus: {name} in {tensor.path.name}", remedy)


def refuse(
    problems: list[Problem],
    tensors: Mapping[str, FileTensor],
    directory: Path,
    fields: ModelFields,
    expected: str,
    unread: tuple[str, ...],
) -> CheckpointError:
    """All problems in one error, with the remedy of each kind."""
    lines = [problem.text for problem in problems]
    rest = [f"... and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    remedies = list(dict.fromkeys(problem.remedy for problem in problems))
    method = quantised_as(tensors, (tensor.dtype for tensor in tensors.values()))
    if method is not None:
        remedies = [UNQUANTISED]
    if unread:
        rest.append(f"not read, as transformers does not: {', '.join(unread[:8])}")
        remedies.append("or remove the files that do not belong to the model")
    return CheckpointError(
        "the checkpoint does not fit its config.json"
        if method is None
        else f"the checkpoint is quantised: {method}",
        place=str(directory),
        expected=expected,
        found=Lines.of([*lines[:LISTED], *rest]),
        remedy="; ".join(remedies[:6]),
    )


def _of_shape(name: str, tensor: FileTensor, shape: tuple[int, ...], fields: ModelFields) -> str:
    field = {
        "embed_tokens": "vocab_size or hidden_size",
        "lm_head": "vocab_size or hidden_size",
        "q_proj": "num_attention_heads, head_dim or hidden_size",
        "o_proj": "num_attention_heads, head_dim or hidden_size",
        "k_proj": "num_key_value_heads, head_dim or hidden_size",
        "v_proj": "num_key_value_heads, head_dim or hidden_size",
        "shared_experts": "n_shared_experts, moe_intermediate_size or hidden_size",
        "experts": "moe_intermediate_size, n_routed_experts or hidden_size",
        "gate": "n_routed_experts or hidden_size",
        "mlp": "intermediate_size or hidden_size",
    }
    known = next((text for part, text in field.items() if f"{part}." in name), "hidden_size")
    return f"use the config.json that belongs to these files: correct {known}"

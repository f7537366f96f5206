"""The models of the benchmarks, and what a step of each must read and compute."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from glmc.presets.catalog import load_preset, preset_names
from glmc.presets.fields import read_fields
from glmc.presets.parameters import parameter_shapes

ITEMSIZE = 2
"""All of them are in bfloat16."""
_COMMON: dict[str, Any] = {
    "head_dim": 128,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": [1],
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
}
_DENSE = {**_COMMON, "architectures": ["Glm4ForCausalLM"], "model_type": "glm4"}
_MOE = {
    **_COMMON,
    "architectures": ["Glm4MoeForCausalLM"],
    "model_type": "glm4_moe",
    "n_routed_experts": 64,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.0,
    "norm_topk_prob": True,
    "n_group": 1,
    "topk_group": 1,
    "use_qk_norm": False,
}

_SHAPES = {
    "middle": ("dense, 0.14 B", 1024, 8, 4096, 8),
    "wide": ("dense, 0.16 B", 1536, 4, 6144, 12),
    "moe-middle": ("MoE, 0.12 B", 512, 6, 1536, 4),
    "moe-wide": ("MoE, 0.15 B", 768, 4, 2048, 6),
}
"""Of models whose weights fit into no cache: width, layers, width of the MLP, heads."""
_EXPERTS = {"n_routed_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 768}


@dataclass(frozen=True)
class BenchModel:
    """A model by its config.json data; its weights are random unless it has a checkpoint. ``key``
    is how it is asked for."""

    key: str
    title: str
    config: Mapping[str, Any]
    checkpoint: Path | None = None

    @property
    def routed(self) -> bool:
        return "n_routed_experts" in self.config

    @property
    def layers(self) -> int:
        return int(self.config["num_hidden_layers"])

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in all layers."""
        heads = self.config["num_key_value_heads"] * self.config["head_dim"]
        return int(2 * self.layers * heads * ITEMSIZE)

    def weight_bytes(self, batch: int) -> float:
        """Bytes of weights that a step of ``batch`` tokens must read: the matrices of all layers
        and the head, of the routed experts those that independent tokens choose on average."""
        experts = self.expected_experts(batch) or 0.0
        return ITEMSIZE * (self._elements(experts) + self._head)

    def step_bytes(self, batch: int, context: int) -> float:
        """What a decode step must read: weights once and the keys and values of every sequence."""
        return self.weight_bytes(batch) + batch * context * self.token_bytes

    def expected_experts(self, batch: int) -> float | None:
        """Distinct experts that a layer reads for ``batch`` independent tokens, on average."""
        if not self.routed:
            return None
        experts, top_k = self.config["n_routed_experts"], self.config["num_experts_per_tok"]
        return float(experts * (1 - (1 - top_k / experts) ** batch))

    def step_bytes_read(self, batch: int, context: int, experts: float) -> float:
        """As ``step_bytes``, of a step that reads ``experts`` distinct experts in each layer of
        them."""
        expected = self.expected_experts(batch)
        if expected is None:
            return self.step_bytes(batch, context)
        more = self._elements(experts) - self._elements(expected)
        return self.step_bytes(batch, context) + ITEMSIZE * more

    def prefill_operations(self, tokens: int) -> float:
        """Multiplications and additions of a causal prefill, logits of the last token alone."""
        query = self.config["num_attention_heads"] * self.config["head_dim"]
        # Each token attends to itself and those before it, with q k and p v.
        attention = self.layers * 4 * query * tokens * (tokens + 1) / 2
        active = self._elements(self.config.get("num_experts_per_tok", 0))
        return float(2.0 * tokens * active + attention + 2.0 * self._head)

    @property
    def _head(self) -> int:
        return int(self.config["hidden_size"] * self.config["vocab_size"])

    def _elements(self, experts: float) -> float:
        """Elements of the matrices of all layers, with so many of each layer's routed experts."""
        total = 0.0
        fields = read_fields(self.config, place=self.title)
        for name, shape in parameter_shapes(fields).items():
            if len(shape) == 3:
                total += experts * prod(shape[1:])
            elif len(shape) == 2 and name.startswith("model.layers."):
                total += prod(shape)
        return total


def bench_models(quick: bool) -> tuple[BenchModel, ...]:
    """The dense and the MoE model: 1.2 and 2.5 billion parameters, or a few million; and the two
    trained ones of this repository."""
    return (*_random(quick), *(_shipped(name) for name in ("tiny-dense", "tiny-moe")))


def published_models(names: Sequence[str]) -> tuple[BenchModel, ...]:
    """Those among ``names`` that are presets, whole, with random weights."""
    presets = [name for name in names if name in preset_names()]
    return tuple(BenchModel(name, name, load_preset(name).config) for name in presets)


def model_of(name: str, quick: bool = False) -> BenchModel:
    """One by its key: those of :func:`bench_models`, and those of ``_SHAPES``."""
    models = {model.key: model for model in bench_models(quick)}
    for key, (title, hidden, layers, wide, heads) in _SHAPES.items():
        shape = {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "intermediate_size": wide,
            "vocab_size": 8192,
            "num_attention_heads": heads,
        }
        kind = "moe" if key.startswith("moe") else "dense"
        experts = _EXPERTS if kind == "moe" else {}
        models[key] = BenchModel(key, title, {**models[kind].config, **shape, **experts})
    return models[name]


def _shipped(name: str) -> BenchModel:
    checkpoint = Path(__file__).parents[1] / "models" / name
    return BenchModel(name, name, json.loads((checkpoint / "config.json").read_text()), checkpoint)


def _random(quick: bool) -> tuple[BenchModel, BenchModel]:
    if quick:
        small = {
            "hidden_size": 256,
            "num_hidden_layers": 2,
            "intermediate_size": 1024,
            "vocab_size": 4096,
            "head_dim": 32,
            "num_attention_heads": 8,
        }
        return (
            BenchModel("dense", "dense, quick", {**_DENSE, **small}),
            BenchModel("moe", "moe, quick", {**_MOE, **small, "moe_intermediate_size": 128}),
        )
    large = {"hidden_size": 2048, "vocab_size": 32768}
    return (
        BenchModel(
            "dense",
            "dense 1.2 B",
            {**_DENSE, **large, "num_hidden_layers": 18, "intermediate_size": 8192},
        ),
        BenchModel(
            "moe",
            "moe 2.5 B, 64 experts",
            {
                **_MOE,
                **large,
                "num_hidden_layers": 10,
                "intermediate_size": 8192,
                "moe_intermediate_size": 640,
            },
        ),
    )


_TINY: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "vocab_size": 512,
    "head_dim": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "eos_token_id": [1],
    "pad_token_id": 0,
}
_TINY_MOE: dict[str, Any] = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
_POSITIONS = 1 << 18  # the presets know fewer positions than the long contexts have


GPU_MODELS: dict[str, tuple[str, int, str]] = {
    "9b": ("glm-4-9b-0414", 40, "GLM-4-9B-0414"),
    "32b": ("glm-4-32b-0414", 30, "GLM-4-32B-0414, 30 of 61 layers"),
    "air": ("glm-4.5-air", 12, "GLM-4.5-Air, 12 of 46 layers"),
    "4.7": ("glm-4.7", 6, "GLM-4.7, 6 of 92 layers"),
}
"""Preset, layers and title by key: as many layers as fit onto one card twice."""


def gpu_model(key: str, quick: bool) -> BenchModel:
    """One of ``GPU_MODELS``."""
    preset, layers, title = GPU_MODELS[key]
    config = {**load_preset(preset).config, "num_hidden_layers": layers}
    config["max_position_embeddings"] = _POSITIONS
    if quick:
        config |= _TINY | (_TINY_MOE if "n_routed_experts" in config else {})
        title += " (tiny)"
    return BenchModel(key, title, config)

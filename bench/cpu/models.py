"""Random models of the GLM families in sizes that a small machine can decode."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class BenchModel:
    """A model by its config.json data; its weights are random unless it has a checkpoint."""

    name: str
    config: dict[str, Any]
    checkpoint: Path | None = None

    @property
    def key(self) -> str:
        """The first word of the name, by which it is asked for."""
        return self.name.split()[0].rstrip(",")

    def weight_bytes(self, batch: int, itemsize: int) -> float:
        """Bytes of weights that one decode step must read: everything but the embedding, and of
        the routed experts those that ``batch`` independent tokens choose, on average."""
        config = self.config
        hidden, layers = config["hidden_size"], config["num_hidden_layers"]
        heads = config["num_attention_heads"] + 2 * config["num_key_value_heads"]
        attention = (heads + config["num_attention_heads"]) * config["head_dim"] * hidden
        dense_layers = config.get("first_k_dense_replace", layers)
        total = layers * attention + hidden * config["vocab_size"]
        total += dense_layers * 3 * hidden * config["intermediate_size"]
        if "n_routed_experts" in config:
            experts, top_k = config["n_routed_experts"], config["num_experts_per_tok"]
            read = experts * (1 - (1 - top_k / experts) ** batch) + config["n_shared_experts"]
            expert = 3 * hidden * config["moe_intermediate_size"]
            total += (layers - dense_layers) * (read * expert + experts * hidden)
        return float(total * itemsize)


def bench_models(quick: bool) -> tuple[BenchModel, ...]:
    """The dense and the MoE model: 1.2 and 2.5 billion parameters, or a few million; and the two
    trained ones of this repository."""
    return (*_random(quick), *(_shipped(name) for name in ("tiny-dense", "tiny-moe")))


def _shipped(name: str) -> BenchModel:
    checkpoint = Path(__file__).parents[2] / "models" / name
    return BenchModel(name, json.loads((checkpoint / "config.json").read_text()), checkpoint)


def _random(quick: bool) -> tuple[BenchModel, BenchModel]:
    if quick:
        small = {
            "hidden_size": 256,
            "num_hidden_layers": 4,
            "intermediate_size": 1024,
            "vocab_size": 4096,
            "head_dim": 32,
            "num_attention_heads": 8,
        }
        return (
            BenchModel("dense, quick", {**_DENSE, **small}),
            BenchModel("moe, quick", {**_MOE, **small, "moe_intermediate_size": 128}),
        )
    large = {"hidden_size": 2048, "vocab_size": 32768}
    return (
        BenchModel(
            "dense 1.2 B",
            {**_DENSE, **large, "num_hidden_layers": 18, "intermediate_size": 8192},
        ),
        BenchModel(
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

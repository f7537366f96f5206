"""The grid of models that must give the answers of Hugging Face, and their checkpoints.

Every value of every axis meets every value of every other axis in at least one point (a test of
this file counts the pairs), so a combination of two settings that goes wrong is seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tests.support.models import tiny_config

VOCABULARY = 200
QUERY_HEADS = 4
MAX_CONTEXT = 128
ENDS = [1, 2, 3]


@dataclass(frozen=True)
class Point:
    """One model. The fields from ``leading_dense`` on are those of ``glm4_moe`` only."""

    family: str
    bias: bool
    kv_heads: int
    head_dim: int
    tied: bool
    qk_norm: bool = False
    leading_dense: int = 0
    groups: int = 1
    normalise: bool = True
    scale: float = 1.0

    @property
    def name(self) -> str:
        def flag(on: bool, word: str) -> str:
            return word if on else f"no_{word}"

        common = (
            self.family,
            flag(self.bias, "bias"),
            f"kv{self.kv_heads}",
            f"head{self.head_dim}",
            flag(self.tied, "tied"),
        )
        if self.family != "glm4_moe":
            return "-".join(common)
        routed = (
            flag(self.qk_norm, "qk_norm"),
            f"dense{self.leading_dense}",
            f"groups{self.groups}",
            flag(self.normalise, "normalise"),
            f"scale{self.scale:g}",
        )
        return "-".join((*common, *routed))

    def config(self) -> Any:
        """The transformers config; a mixture has two layers of experts after its dense ones."""
        fields: dict[str, Any] = {
            "vocab_size": VOCABULARY,
            "max_position_embeddings": MAX_CONTEXT,
            "num_attention_heads": QUERY_HEADS,
            "attention_bias": self.bias,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "tie_word_embeddings": self.tied,
            "eos_token_id": ENDS,
        }
        if self.family == "glm4_moe":
            fields |= {
                "use_qk_norm": self.qk_norm,
                "first_k_dense_replace": self.leading_dense,
                "num_hidden_layers": self.leading_dense + 2,
                "num_experts_per_tok": 3,
                "n_group": self.groups,
                "topk_group": 2 if self.groups > 1 else 1,
                "norm_topk_prob": self.normalise,
                "routed_scaling_factor": self.scale,
            }
        return tiny_config(self.family, **fields)


def _dense(family: str, bias: bool, kv_heads: int, head_dim: int, tied: bool) -> Point:
    return Point(family, bias, kv_heads, head_dim, tied)


def _mixture(
    qk_norm: bool,
    bias: bool,
    leading_dense: int,
    groups: int,
    normalise: bool,
    scale: float,
    kv_heads: int,
    head_dim: int,
    tied: bool,
) -> Point:
    return Point(
        "glm4_moe",
        bias,
        kv_heads,
        head_dim,
        tied,
        qk_norm,
        leading_dense,
        groups,
        normalise,
        scale,
    )


GRID = (
    # family, bias, kv heads, head size, tied
    _dense("glm", True, 1, 96, False),
    _dense("glm4", False, 4, 96, True),
    _dense("glm4", True, 2, 128, True),
    _dense("glm", False, 2, 64, False),
    _dense("glm", False, 1, 128, True),
    _dense("glm4", True, 4, 64, False),
    _dense("glm4", False, 1, 64, True),
    _dense("glm", False, 4, 128, False),
    _dense("glm", False, 2, 96, True),
    # qk norm, bias, leading dense, groups, normalise, scale, kv heads, head size, tied
    _mixture(False, False, 0, 4, False, 2.5, 2, 96, True),
    _mixture(True, True, 2, 1, False, 1.0, 1, 64, False),
    _mixture(False, False, 1, 4, True, 1.0, 4, 128, False),
    _mixture(True, True, 3, 1, True, 2.5, 4, 96, True),
    _mixture(False, False, 2, 4, True, 2.5, 1, 64, True),
    _mixture(True, True, 1, 1, False, 1.0, 2, 128, True),
    _mixture(True, False, 3, 4, False, 1.0, 1, 96, False),
    _mixture(False, True, 0, 1, True, 2.5, 1, 128, False),
    _mixture(True, False, 0, 1, False, 1.0, 4, 64, True),
    _mixture(False, True, 3, 4, True, 2.5, 2, 64, False),
    _mixture(True, True, 1, 1, False, 2.5, 1, 64, True),
    _mixture(False, True, 2, 4, True, 1.0, 4, 96, True),
    _mixture(True, True, 2, 4, False, 2.5, 2, 128, False),
    _mixture(False, False, 1, 1, True, 2.5, 2, 96, False),
    _mixture(True, False, 3, 1, True, 1.0, 4, 128, True),
)


def build(point: Point, seed: int = 0, *, calm: bool = False) -> nn.Module:
    """The stock float32 model, whose greedy texts do not run into a loop.

    Matrices are strong enough for the context to matter in every step, and the final norm's
    weights have random signs: with a tied embedding the last token would otherwise repeat itself.

    Such a model multiplies rounding errors. A ``calm`` one does not: its layers are weaker, and
    its correction biases are 1 apart, more than two sigmoids can differ, so that no rounding makes
    a router choose another expert (the weights of the chosen ones still follow the token).
    """
    gain = 0.75 if calm else 1.5
    model = transformers.AutoModelForCausalLM.from_config(
        point.config(), attn_implementation="eager"
    )
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor, deviation: float, mean: float = 0.0) -> None:
        tensor.data.copy_(mean + deviation * torch.randn(tensor.shape, generator=generator))

    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith("inv_freq"):
            continue
        columns = tensor.shape[-1] ** -0.5
        if name.endswith("e_score_correction_bias"):
            if calm:
                tensor.copy_(torch.randperm(len(tensor), generator=generator))
            else:
                draw(tensor, 0.1)
        elif name.endswith("mlp.gate.weight"):
            draw(tensor, 2.0 * columns)
        elif name == "model.norm.weight":
            draw(tensor, 1.0)
        elif name.endswith(("q_norm.weight", "k_norm.weight")):
            draw(tensor, 0.3, 1.5)
        elif "norm" in name:
            draw(tensor, 0.1, 1.0)
        elif name.endswith("bias"):
            draw(tensor, 0.1)
        elif "embed_tokens" in name:
            draw(tensor, 0.5)
        elif "lm_head" in name:
            draw(tensor, columns)
        else:
            draw(tensor, gain * columns)
    return model.requires_grad_(False).eval()  # type: ignore[no-any-return]


def write_checkpoint(
    point: Point, directory: Path, dtype: torch.dtype, *, calm: bool = False
) -> Path:
    """A checkpoint as ``save_pretrained`` writes it, weights rounded to ``dtype``."""
    model = build(point, calm=calm)
    kept = {
        name: buffer.clone()
        for name, buffer in model.named_buffers()
        if name.endswith("e_score_correction_bias")
    }
    model.to(dtype)
    for name, buffer in kept.items():  # float32 in every published checkpoint
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner)._buffers[leaf] = buffer
    model.config.dtype = dtype
    # No text ever ends in these tests, and nothing but config.json may say so.
    model.generation_config.eos_token_id = ENDS
    model.save_pretrained(directory)
    return directory

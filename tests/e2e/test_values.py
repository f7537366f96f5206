"""``values.json`` against the stock model: what a plan's calls complete is what modules have there.

The plans run call by call, those of ``xpu`` emulated; of ``cuda`` the programs that its plans were
made of, merges included.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from glmc_runtime.format.tensor_key import OUTPUT, TensorKey
from glmc_runtime.record.module_tensors import module_tensors
from tests.e2e.completed import completed, job_of
from tests.support.models import MODERN
from tests.support.thinned import thinned

MODELS = Path(__file__).parents[2] / "models"
SEQUENCES = [[5, 99, 340, 1201, 7, 61], [14, 15], [800, 3, 77, 12, 1500, 9, 10, 11, 12, 13]]
LENGTHS = tuple(len(tokens) for tokens in SEQUENCES)
# Modules whose results are inside of what was fused: of the router its logits.
FUSED = (
    r"rotary_emb|q_norm|k_norm|act(ivation)?_fn|shared_experts|experts\.act_fn"
    r"|mlp\.gate\.Glm4MoeTopkRouter\.0\.forward_output\.0"
)


@dataclass(frozen=True)
class Way:
    """``inside``: what of the model this way fuses too."""

    model: str
    target: str
    inside: str = "nothing"
    options: Mapping[str, Any] = field(default_factory=dict)


WAYS = {
    "moe-cpu": Way("tiny-moe", "cpu"),
    "moe-xpu": Way("tiny-moe", "xpu"),
    "moe-cuda": Way("tiny-moe", "cuda", r"(gate|up)_proj|experts\.Glm4MoeExperts"),
    "moe-two-ranks": Way("tiny-moe", "cpu", options={"tensor_parallel": 2}),
    "moe-four-ranks": Way(
        "tiny-moe", "cpu", options={"tensor_parallel": 4, "expert_parallel": True}
    ),
    "moe-as-eight-ranks": Way("tiny-moe", "cpu", options={"deterministic": "ranks"}),
    "moe-two-ranks-as-eight": Way(
        "tiny-moe", "cpu", options={"tensor_parallel": 2, "deterministic": "ranks"}
    ),
    "dense-two-ranks-xpu": Way("tiny-dense", "xpu", options={"tensor_parallel": 2}),
    "moe-marked": Way("tiny-moe", "cpu", options={"marked": True}),
    "moe-no-merges": Way(
        "tiny-moe", "cpu", options={"passes_off": ("qkv_merge", "gate_up_merge", "add_rms_norm")}
    ),
    "dense-cpu": Way("tiny-dense", "cpu"),
    "dense-xpu": Way("tiny-dense", "xpu"),
    "dense-cuda": Way("tiny-dense", "cuda", r"gate_up_proj|post_(mlp|self_attn)_layernorm"),
}

# The merges of a target and the shares of ranks are those of the others.
LONG = (
    "moe-four-ranks",
    "moe-two-ranks-as-eight",
    "moe-as-eight-ranks",
    "moe-no-merges",
    "dense-xpu",
    "dense-two-ranks-xpu",
)

pytestmark = [
    pytest.mark.usefixtures("shared_captures"),
    pytest.mark.skipif(not MODERN, reason="modules of experts of their own"),
]


def stock(name: str) -> dict[TensorKey, list[Tensor]]:
    """The tensors of each sequence, by rows."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        MODELS / name, dtype=torch.float32, attn_implementation="sdpa"
    )
    seen: dict[TensorKey, list[Tensor]] = defaultdict(list)
    with (
        torch.no_grad(),
        module_tensors(
            model.eval().named_modules(), lambda key, tensor: seen[key].append(tensor.clone())
        ),
    ):
        for tokens in SEQUENCES:
            model(torch.tensor([tokens]), use_cache=False)
    return seen


def packed(tensors: list[Tensor], phase: str, last: bool) -> Tensor:
    """[rows, numbers of a token]: the rows of a step, or the last one of each sequence in it."""
    rows = [tensor.reshape(length, -1) for tensor, length in zip(tensors, LENGTHS, strict=True)]
    cut = [each[-1:] if phase == "decode" else each[:-1] for each in rows]
    return torch.cat([each[-1:] for each in cut] if last else cut)


def require_close(actual: Tensor, expected: Tensor, key: TensorKey) -> None:
    if key.class_name in ("Glm4MoeTopkRouter", "Glm4MoeExperts") and expected.shape[-1] == 4:
        actual, expected = actual.sort(-1).values, expected.sort(-1).values
    scale = float(expected.abs().max())
    torch.testing.assert_close(
        actual.to(expected.dtype), expected, rtol=1e-3, atol=1e-4 * scale, msg=lambda _: str(key)
    )


@pytest.mark.parametrize("name", thinned(WAYS, long=LONG))
def test_each_tensor_is_that_of_the_stock_model(name: str, tmp_path: Path) -> None:
    way = WAYS[name]
    expected = stock(way.model)
    found: dict[str, set[TensorKey]] = {"prefill": set(), "decode": set()}
    job = job_of(MODELS / way.model, way.target, LENGTHS, **way.options)
    for phase, value, tensor in completed(job, SEQUENCES, tmp_path):
        rows = tensor.flatten(1)
        for key in (key for key in value.keys if key in expected):
            whole = packed(expected[key], phase, value.shape[0] == "sequences")
            require_close(rows, whole, key)
            found[phase].add(key)
        for part in value.parts:
            columns = tensor[..., part.start : part.stop].flatten(1)
            for key in part.keys:
                require_close(columns, packed(expected[key], phase, last=False), key)
                found[phase].add(key)
    inside = re.compile(rf".*\b({FUSED}|{way.inside})\b.*")
    outputs = {key for key in expected if key.kind == OUTPUT}
    for keys in found.values():
        lost = [str(key) for key in outputs - keys if not inside.fullmatch(str(key))]
        assert lost == []

"""A checkpoint that nobody compiled: its plan is made when vLLM starts, its weights of what vLLM's
loader reads. One model of each architecture, with random weights and sizes of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc_engines.core.counters import shared_counts
from tests.engines.vllm.conftest import COMPILER
from tests.engines.vllm.reference import ROOT, Reference
from tests.engines.vllm.test_offline import check, counts, generate

COMMON: dict[str, Any] = {
    "vocab_size": 1536,
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 160,
    "max_position_embeddings": 512,
    "eos_token_id": [1531],
    "pad_token_id": 1531,
}
MODELS: dict[str, dict[str, Any]] = {
    "Glm": {"num_key_value_heads": 1},
    "Glm4": {"attention_bias": True},
    "Glm4Moe": {
        "moe_intermediate_size": 48,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "use_qk_norm": True,
        "routed_scaling_factor": 1.5,
    },
}


def write_checkpoint(kind: str, place: Path) -> Path:
    """Random weights, far enough apart that tokens differ."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(**COMMON | MODELS[kind])
    torch.manual_seed(3)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.5 if "embed" in name else 0.12)
    model.save_pretrained(place)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "models" / "tiny-moe" / name, place / name)
    return place


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_tokens_of_a_plan_that_is_compiled_at_the_start(
    kind: str, in_process: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from vllm import LLM, SamplingParams

    in_process.setenv("GLMC_COMPILER", COMPILER)
    in_process.setenv("GLMC_REQUIRE", "1")
    in_process.setenv("GLMC_CACHE", str(tmp_path / "cache"))
    path = write_checkpoint(kind, tmp_path / "model")
    model = Reference(path)
    answers = [model.answer(prompt, 16) for prompt in model.prompts(8)]
    limits = {"max_model_len": 256, "max_num_seqs": 8, "max_num_batched_tokens": 64}
    llm = LLM(str(path), dtype="float32", **limits)
    options = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)
    check(generate(llm, [answer.prompt for answer in answers], options), answers)
    assert counts("steps") == counts("replays") > 16
    origins = {dict(each.labels)["origin"] for each in shared_counts() if each.name == "serves"}
    assert origins == {"compiled"}

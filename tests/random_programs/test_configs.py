"""Random GLM configs as artifacts give the greedy tokens of Hugging Face, in float32.

Seeds are fixed; ``GLMC_RANDOM_CONFIGS`` is how many the slow suite draws.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from glmc_runtime.errors import GlmcError
from tests.e2e.build import CPU, EMULATED, Builder, Place, generated
from tests.e2e.grid import MAX_CONTEXT, VOCABULARY, write_checkpoint
from tests.e2e.reference import describe_difference, greedy, load_eager, prompts
from tests.support.models import tiny_config

COUNT = int(os.environ.get("GLMC_RANDOM_CONFIGS", "16"))
SEED = int(os.environ.get("GLMC_RANDOM_SEED", "0"))
NEW_TOKENS = 12


@dataclass(frozen=True)
class Drawn:
    """One model, its prompts and how the artifact is cut into buckets and blocks."""

    family: str
    fields: dict[str, Any] = field(hash=False)
    partial: float
    lengths: tuple[int, ...]
    block: int
    prefill: tuple[int, ...]

    def config(self) -> Any:
        return tiny_config(
            self.family,
            vocab_size=VOCABULARY,
            max_position_embeddings=MAX_CONTEXT,
            partial_rotary_factor=self.partial,
            **self.fields,
        )


@st.composite
def configs(draw: st.DrawFn) -> Drawn:
    family = draw(st.sampled_from(["glm", "glm4", "glm4_moe", "glm4_moe"]))
    heads = draw(st.sampled_from([(2, 1), (4, 1), (4, 2), (4, 4), (6, 2)]))
    fields: dict[str, Any] = {
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "head_dim": draw(st.sampled_from([32, 64])),
        "hidden_size": draw(st.sampled_from([64, 96])),
        "intermediate_size": draw(st.sampled_from([48, 96])),
        "attention_bias": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
        "rms_norm_eps": draw(st.sampled_from([1e-5, 1e-3])),
    }
    if family == "glm4_moe":
        groups, best = draw(st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2)]))
        fields |= {
            "num_hidden_layers": draw(st.sampled_from([1, 2])),
            "first_k_dense_replace": draw(st.sampled_from([0, 1])),
            "use_qk_norm": draw(st.booleans()),
            "n_routed_experts": draw(st.sampled_from([8, 16])),
            "num_experts_per_tok": draw(st.sampled_from([1, 2, 3])),
            "n_shared_experts": draw(st.sampled_from([1, 2])),
            "n_group": groups,
            "topk_group": best,
            "norm_topk_prob": draw(st.booleans()),
            "routed_scaling_factor": draw(st.sampled_from([1.0, 2.5])),
            "moe_intermediate_size": draw(st.sampled_from([32, 48])),
        }
    return Drawn(
        family,
        fields,
        draw(st.sampled_from([0.25, 0.5, 1.0])),
        tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))),
        draw(st.sampled_from([16, 32])),
        draw(st.sampled_from([(64, 512), (4, 16), (8,)])),
    )


def check(drawn: Drawn, place: Place, tally: Counter[str]) -> None:
    tally["tried"] += 1
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(drawn, Path(folder, "model"), torch.float32, calm=True)  # type: ignore[arg-type]
        builder = Builder(checkpoint, Path(folder, "artifacts"), block_size=drawn.block)
        try:
            session = builder.session(
                place, "float32", max_context=96, prefill_buckets=drawn.prefill
            )
        except GlmcError:
            tally["refused"] += 1
            return
        model, texts = load_eager(checkpoint, torch.float32), prompts(lengths=drawn.lengths)
        expected, found = greedy(model, texts, NEW_TOKENS), generated(session, texts, NEW_TOKENS)
        tally["equal" if expected == found else "silent"] += 1
        for text, one, other in zip(texts, expected, found, strict=True):
            assert one == other, describe_difference(model, text, one, other)


def _drawn(count: int, seed: int, place: Place, tally: Counter[str]) -> None:
    profile = settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    seeded(seed)(profile(given(configs())(lambda drawn: check(drawn, place, tally))))()


@pytest.mark.slow
@pytest.mark.parametrize("place", [CPU, EMULATED[0]], ids=lambda place: place.name)
def test_many_configs(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    tally: Counter[str] = Counter()
    try:
        _drawn(COUNT, SEED, place, tally)
    finally:
        with capsys.disabled():
            names = ("tried", "equal", "refused", "silent")
            counts = ", ".join(f"{name} {tally[name]}" for name in names)
            print(f"\nrandom configs, {place.name}, seed {SEED}: {counts}")
    assert tally["equal"] > COUNT // 2

"""A lost fusion: refused by name; with ``allow_missing`` plain kernels give the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from glmc import pipeline
from glmc.config import CompileOptions
from glmc.driver import front_end
from glmc.errors import MatchCountError
from glmc.presets.catalog import load_config
from tests.e2e.build import CPU, EMULATED, Builder, generated
from tests.e2e.reference import describe_difference, greedy, load_eager, prompts
from tests.support.models import tiny_config, tiny_model

COUNT = 24
# What is lost, and which kernels of each target then do its work.
PLAIN = {
    "add_rms_norm": ("cpu.add", "aten.add"),
    "shared_expert": ("cpu.add", "aten.add"),
    "gate_up_merge": ("cpu.silu_mul", "aten.concat_columns"),
    "qk_norm": ("cpu.qkv_rope_cache", "aten.linear"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Glm4Moe with a dense layer, two of experts, and norms of q and k."""
    directory = tmp_path_factory.mktemp("mixture")
    model: Any = tiny_model(tiny_config("glm4_moe", vocab_size=200, head_dim=32))
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> tuple[Any, list[list[int]], list[list[int]]]:
    model, texts = load_eager(checkpoint, torch.float32), prompts(lengths=(1, 5, 17, 33))
    return model, texts, greedy(model, texts, COUNT)


def lose(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    kept = tuple(each for each in pipeline.PASSES if each.name != name)
    assert len(kept) == len(pipeline.PASSES) - 1
    monkeypatch.setattr(pipeline, "PASSES", kept)


@pytest.mark.parametrize("name", PLAIN)
def test_a_lost_fusion_is_refused_by_name(
    name: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, name)
    with pytest.raises(MatchCountError) as caught:
        front_end(load_config(checkpoint), CompileOptions(dtype="float32"))
    assert name in str(caught.value.place)


@pytest.mark.parametrize("name", PLAIN)
def test_allow_missing_gives_the_tokens_of_hugging_face(
    name: str,
    checkpoint: Path,
    expected: tuple[Any, list[list[int]], list[list[int]]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    lose(monkeypatch, name)
    builder, (model, texts, tokens) = Builder(checkpoint, tmp_path, block_size=16), expected
    problems: list[str] = []
    for place, plain in zip((CPU, EMULATED[0]), PLAIN[name], strict=True):
        session = builder.session(place, "float32", max_context=128, allow_missing=True)
        assert plain in session.artifact.functions
        problems += [
            f"{place.name}: {describe_difference(model, text, one, two)}"
            for text, one, two in zip(texts, tokens, generated(session, texts, COUNT), strict=True)
            if one != two
        ]
    assert not problems, "\n".join(problems)

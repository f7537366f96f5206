"""A lost fusion: refused by name; with ``allow_missing`` plain kernels give the same answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx import Node

from glmc.compiler import front_end
from glmc.config import CompileOptions
from glmc.errors import LoweringError, MatchCountError
from glmc.ir import match as m
from glmc.ir.program import Program
from glmc.job import read_job
from glmc.passes import rope
from glmc.pipeline import stages as pipeline
from tests.e2e.build import CPU, EMULATED, Builder, Place, generated
from tests.e2e.reference import describe_difference, greedy, load_eager, prompts
from tests.support.models import tiny_config, tiny_model
from tests.support.thinned import thinned

pytestmark = pytest.mark.usefixtures("shared_captures")
COUNT = 12  # the second prompt goes on beyond a block
# What is lost, of which family, and which kernels of each target then do its work.
PLAIN: dict[str, tuple[str, str, str]] = {
    "add_rms_norm": ("glm4_moe", "aten.add", "aten.add"),
    "shared_expert": ("glm4_moe", "aten.add", "aten.add"),
    "gate_up_merge": ("glm4_moe", "cpu.silu_mul", "aten.concat_columns"),
    "gate_up_merge silu_mul": ("glm4_moe", "aten.silu", "aten.mul"),
    "qk_norm": ("glm4_moe", "cpu.qkv_rope_cache", "aten.linear"),
    "qkv_merge": ("glm4_moe", "aten.concat_columns", "aten.concat_columns"),
    "rms_norm": ("glm4_moe", "aten.rsqrt", "aten.mean_columns"),
    "rms_norm gate_up_merge": ("glm4", "aten.slice_columns", "aten.slice_columns"),
    "rms_norm qkv_merge silu_mul": ("glm", "aten.pow", "aten.concat_columns"),
}
NO_PLAIN_FORM = ("attention", "rope", "moe_gate", "moe_ffn")
Expected = tuple[Path, Any, list[list[int]], list[list[int]]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Expected]:
    """A checkpoint of each family with prompts and Hugging Face's answers; Glm4Moe has a dense
    layer, two of experts, and norms of q and k."""
    found: dict[str, Expected] = {}
    for family in ("glm", "glm4", "glm4_moe"):
        directory = tmp_path_factory.mktemp(family)
        config = tiny_config(family, vocab_size=200, head_dim=32)
        tiny_model(config).save_pretrained(directory)  # type: ignore[operator]
        model, texts = load_eager(directory, torch.float32), prompts(lengths=(1, 5, 17, 33))
        found[family] = (directory, model, texts, greedy(model, texts, COUNT))
    return found


def lose(monkeypatch: pytest.MonkeyPatch, names: str) -> None:
    lost = names.split()
    kept = tuple(each for each in pipeline.PASSES if each.name not in lost)
    assert len(kept) == len(pipeline.PASSES) - len(lost)
    monkeypatch.setattr(pipeline, "PASSES", kept)


# Which pass is lost changes a name in the error: one alone, several, one without a plain form.
REFUSED = ("add_rms_norm", "gate_up_merge silu_mul", "moe_ffn")


@pytest.mark.parametrize(
    "names",
    thinned((*PLAIN, *NO_PLAIN_FORM), [*{*PLAIN, *NO_PLAIN_FORM} - {*REFUSED}]),
)
def test_a_lost_fusion_is_refused_by_name(
    names: str, models: dict[str, Expected], monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, names)
    family = PLAIN[names][0] if names in PLAIN else "glm4_moe"
    with pytest.raises(MatchCountError) as caught:
        front_end(read_job(models[family][0], CompileOptions(dtype="float32")))
    assert names.split()[0] in str(caught.value.place)


# One of a norm, one of the experts, one that leaves products apart; the others in test-long.
QUICK = ("add_rms_norm", "gate_up_merge silu_mul", "rms_norm qkv_merge silu_mul")


@pytest.mark.parametrize("names", thinned(PLAIN, long=[*{*PLAIN} - {*QUICK}]))
def test_allow_missing_gives_the_tokens_of_hugging_face(
    names: str,
    models: dict[str, Expected],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    lose(monkeypatch, names)
    family, *kernels = PLAIN[names]
    checkpoint, model, texts, tokens = models[family]
    builder = Builder(checkpoint, tmp_path, block_size=16)
    problems: list[str] = []
    for place, plain in zip((CPU, EMULATED[0]), kernels, strict=True):
        session = builder.session(place, "float32", max_context=128, allow_missing=True)
        assert plain in session.artifact.functions
        problems += [
            f"{place.name}: {describe_difference(model, text, one, two)}"
            for text, one, two in zip(texts, tokens, generated(session, texts, COUNT), strict=True)
            if one != two
        ]
    assert not problems, "\n".join(problems)


@pytest.mark.long
@pytest.mark.parametrize("place", (CPU, EMULATED[0]), ids=lambda place: place.name)
def test_low_precision_keeps_its_casts(
    place: Place, models: dict[str, Expected], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In bfloat16 the casts of a lost norm stay in the plan; tokens are as many as asked for."""
    lose(monkeypatch, "rms_norm")
    checkpoint, _, texts, _ = models["glm4_moe"]
    builder = Builder(checkpoint, tmp_path, block_size=16)
    session = builder.session(place, "bfloat16", max_context=128, allow_missing=True)
    assert "aten.copy" in session.artifact.functions
    assert [len(each) for each in generated(session, texts, 4)] == [4] * len(texts)


@pytest.mark.parametrize("name", NO_PLAIN_FORM)
def test_what_has_no_unfused_implementation_is_refused_with_its_reason(
    name: str, models: dict[str, Expected], monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, name)
    options = CompileOptions(dtype="float32", allow_missing=True)
    with pytest.raises(LoweringError) as caught:
        front_end(read_job(models["glm4_moe"][0], options))
    error = caught.value
    assert "no unfused implementation exists for the target" in error.message
    assert name in error.expected and f"{name}: expected" in error.found
    assert "layer" in error.place
    assert "--allow-missing" not in error.remedy


def test_a_near_miss_is_told_where_no_unfused_implementation_exists(
    models: dict[str, Expected], monkeypatch: pytest.MonkeyPatch
) -> None:
    def strict(anchor: Node, program: Program) -> Any:
        if anchor.meta["layer"] == 1:
            m.refuse(anchor, "this layer is spelled in a way of its own")
        return rope.match(anchor, program)

    stricter = replace(rope.PASS, match=strict)
    page = tuple(stricter if each is rope.PASS else each for each in pipeline.PASSES)
    monkeypatch.setattr(pipeline, "PASSES", page)
    options = CompileOptions(dtype="float32", allow_missing=True)
    with pytest.raises(LoweringError) as caught:
        front_end(read_job(models["glm"][0], options))
    assert "model.layers.1." in caught.value.place
    assert "layer 1: " in caught.value.found
    assert "spelled in a way of its own" in caught.value.found

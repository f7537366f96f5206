"""Own and inherited error of sound plans: nothing is to blame, and what follows is told apart."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc.check.align.expectation import Expectation, ItsOwnProgram
from glmc.check.align.recorded import RecordedModel
from glmc.check.align.result import Alignment, Verdict
from glmc.check.align.rows import OTHER_EXPERTS
from glmc_runtime.record.options import RecordOptions
from glmc_runtime.replay import bind as bind_module
from tests.check.align.aligned import (
    DTYPES,
    LENGTHS,
    OPTIONS,
    PLACES,
    SHIPPED,
    STEPS,
    Aligner,
    captured_model,
    new_front,
    prompts,
)
from tests.check.align.faults import FAULTS
from tests.check.align.memory_sink import of_checkpoint
from tests.check.careless import careless
from tests.e2e import grid, many_cards
from tests.sabotage import sabotaged
from tests.support.interpreted import quick_interpreter

pytestmark = pytest.mark.usefixtures("shared_captures")
LONG = ("tiny-moe", captured_model)
RANDOM = (grid.GRID[10], many_cards.drawn(12)[9])
"""Experts in groups, several heads to a key head; no bias and sizes that hardly divide."""


@cache
def aligner(model: Path) -> Aligner:
    return Aligner(model)


@pytest.fixture(scope="module")
def random_models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("random")
    return [
        grid.write_checkpoint(point, folder / str(number), torch.bfloat16)  # type: ignore[arg-type]
        for number, point in enumerate(RANDOM)
    ]


def wrong(alignment: Alignment) -> list[tuple[int, str, str]]:
    own = (each for each in alignment.values if each.verdict is not Verdict.OK)
    return [(each.step, each.node, each.reason) for each in own]


def no_reference(rebuilt: object) -> None:
    return None


def test_the_values_of_a_sound_plan() -> None:
    alignment = aligner(SHIPPED / "tiny-moe").align("cpu", "bfloat16")
    assert wrong(alignment) == []
    assert alignment.facts[1]["target"] == "cpu" and not alignment.emulated
    values = alignment.values
    assert [each.order for each in values] == list(range(len(values)))
    assert [each.step for each in values] == sorted(each.step for each in values)
    assert {each.step for each in values} == set(range(STEPS + 1))
    first, last = values[0], values[-1]
    assert first.name == "model.embed_tokens.Embedding.0.forward_output.0"
    assert first.shape == (sum(LENGTHS), 128) and last.shape == (len(LENGTHS), 1536)
    assert first.total.largest_absolute == 0 and last.total.largest_absolute > 0
    assert last.name == "lm_head.Linear.0.forward_output.0" and last.function == "cpu.linear"
    assert {each.phase for each in values if each.step} == {"decode"}
    gates = [each for each in values if each.op == "moe_gate"]
    ids = [each for each in gates if each.node.endswith("[1]")]
    assert ids and all(each.router is not None and each.router.tokens for each in ids)
    caches = [each for each in values if each.op == "qkv_rope_cache" and each.node.endswith("[1]")]
    assert caches[0].shape == (sum(LENGTHS), 2, 32)  # the tokens of the step, not the blocks
    assert all(each.own is not None and each.inherited is not None for each in values)


def test_the_emulator_is_called_that() -> None:
    alignment = aligner(SHIPPED / "tiny-moe").align("xpu/P-A", "bfloat16")
    assert wrong(alignment) == [] and alignment.emulated


@pytest.mark.long
def test_without_a_reference_the_program_is_one() -> None:
    alignment = aligner(SHIPPED / "tiny-moe").align("cpu", "float32", reference=no_reference)
    assert wrong(alignment) == []
    assert alignment.expected == ItsOwnProgram.label


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("model", "reference"),
    [
        pytest.param(
            model,
            reference,
            marks=pytest.mark.long if (model, reference) == LONG else pytest.mark.slow,
        )
        for model in ("tiny-moe", "tiny-dense", "random 0", "random 1")
        for reference in (captured_model, no_reference)
    ],
)
def test_nothing_is_found_in_a_sound_plan(
    model: str,
    place: str,
    dtype: str,
    reference: Any,
    random_models: list[Path],
) -> None:
    name, _, number = model.partition(" ")
    path = random_models[int(number)] if number else SHIPPED / name
    assert wrong(aligner(path).align(place, dtype, reference=reference)) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without")
@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param("float32", marks=pytest.mark.slow),
        pytest.param("float16", marks=pytest.mark.long),
    ],
)
def test_nothing_is_found_in_a_sound_plan_of_cuda(dtype: str) -> None:
    """By Triton's interpreter, which cuts bfloat16 off where a GPU rounds."""
    with quick_interpreter():
        alignment = aligner(SHIPPED / "tiny-moe").align("cuda", dtype)
    assert wrong(alignment) == []
    written = [each for each in alignment.values if each.op == "rope_decode_attention"]
    assert {each.node[-3:] for each in written} == {"[0]", "[1]", "[2]"}  # the caches as well


@pytest.mark.parametrize(
    ("place", "dtype"),
    [
        pytest.param("cpu", "float32", marks=pytest.mark.slow),
        pytest.param("cpu", "bfloat16", marks=pytest.mark.slow),
        pytest.param("xpu/P-A", "float32", marks=pytest.mark.slow),
        pytest.param("xpu/P-A", "bfloat16", marks=pytest.mark.long),
    ],
)
def test_nothing_is_found_in_a_sound_plan_of_two_ranks(place: str, dtype: str) -> None:
    options = replace(OPTIONS, tensor_parallel=2)
    alignment = aligner(SHIPPED / "tiny-moe").align(place, dtype, options=options)
    assert wrong(alignment) == []


def recorded(model: str, dtype: str) -> Expectation:
    """The stock model of Hugging Face, on the prompts and with the tokens of its own."""
    given = prompts(aligner(SHIPPED / model).job("cpu", dtype))
    options = RecordOptions(tuple(map(tuple, given.prompts)), STEPS)
    return RecordedModel(of_checkpoint(SHIPPED / model, options, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "model",
    [
        pytest.param("tiny-moe", marks=pytest.mark.long),
        pytest.param("tiny-dense", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_found_beside_hugging_face(model: str, dtype: str) -> None:
    reference = recorded(model, dtype)
    for place in ("cpu", "xpu/P-A"):
        alignment = aligner(SHIPPED / model).align(place, dtype, reference=lambda _: reference)
        assert wrong(alignment) == []
        assert alignment.facts[0]["made_by"].startswith("Hugging Face transformers")


@pytest.mark.long
def test_a_wrong_pass_is_found_by_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = recorded("tiny-moe", "bfloat16")
    sabotaged("interleaved_rope", (1,)).install(monkeypatch)
    alignment = aligner(SHIPPED / "tiny-moe").align(
        "cpu", "bfloat16", front=new_front, reference=lambda _: reference
    )
    assert {node for _, node, _ in wrong(alignment)} == {
        "model.layers.1.self_attn#scaled_dot_product_attention"
    }


def test_a_call_that_writes_over_a_value_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value that it has spoilt is not, and is right again for the next call."""

    monkeypatch.setattr(bind_module, "find_binder", careless)
    alignment = aligner(SHIPPED / "tiny-moe").align("cpu", "bfloat16", reference=no_reference)
    found = wrong(alignment)
    assert {node for _, node, _ in found} <= {
        f"model.layers.{layer}.mlp.gate#gather[0]" for layer in (1, 2, 3)
    }
    assert found[0][2].startswith("cpu.moe_gate writes over model.layers.1.")


@pytest.mark.parametrize("place", [pytest.param("cpu", marks=pytest.mark.long), "xpu/P-A"])
def test_what_follows_other_experts_is_said_to(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong router sends tokens elsewhere. The forced replay goes on with the right experts, of
    which the vendor's calls have a count besides; the free one is right for where it sent them."""
    FAULTS["router_without_bias"].install(monkeypatch)
    alignment = aligner(SHIPPED / "tiny-moe").align(place, "float32")
    gate = "model.layers.1.mlp.gate#gather"
    assert {node.partition("[")[0] for _, node, _ in wrong(alignment)} == {gate}
    first = next(each for each in alignment.values if each.node == f"{gate}[1]")
    assert first.router is not None and first.router.agreeing < first.router.tokens
    assert first.router.margins is not None and first.router.tied is False
    right = [each for each in alignment.values if each.verdict is Verdict.OK]
    after = [each for each in right if each.order > first.order and each.total.largest_absolute]
    assert {each.reason for each in after if each.layer != 0} == {OTHER_EXPERTS}
    assert {each.reason for each in after if each.layer == 0} == {""}
    assert {each.reason for each in right if each.order < first.order} == {""}

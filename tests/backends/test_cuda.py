"""--target cuda: how many calls a layer takes, what a device graph holds, what a plan may ask for.

Compiling needs no GPU. The kernels themselves are tested in tests/runtime/kernels/cuda.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import pytest
import torch

from glmc.backends import cuda, target_by_name
from glmc.backends.cuda.rules import RULES
from glmc.compiled import Compiled
from glmc.compiler import compile_plan
from glmc.config import CompileOptions
from glmc.ir.ops.collectives import is_collective
from glmc.job import read_job
from glmc.pipeline.stages import MERGES
from glmc.presets.catalog import load_preset
from glmc_runtime.format.phases import DECODE, PREFILL
from glmc_runtime.format.plan import BufferArgument, PhasePlan
from glmc_runtime.format.plan_json import phase_from_json, phase_to_json

DENSE = [
    "cuda.norm_add_rms_norm",
    "cuda.linear",
    "cuda.rope_decode_attention",
    "cuda.linear",
    "cuda.norm_add_rms_norm",
    "cuda.linear_swiglu",
    "cuda.linear",
]
MIXTURE = [
    "cuda.add_rms_norm",
    "cuda.linear",
    "cuda.rope_decode_attention",
    "cuda.linear",
    "cuda.add_rms_norm",
    "cuda.moe_gate",
    "cuda.moe_ffn",
]


pytestmark = pytest.mark.usefixtures("shared_captures")
# Layers of one kind are lowered alike however many there are: these have some of each kind.
LAYERS = 6


def _compiled(model: str, layers: int | None = LAYERS, target: str = "cuda") -> Compiled:
    """A preset cut to its first layers, or whole."""
    return _made(model, layers, target)


@functools.cache
def _made(model: str, layers: int | None, target: str) -> Compiled:
    options = CompileOptions(target=target, weights="none")
    if layers is None:
        return compile_plan(read_job(model, options))
    with tempfile.TemporaryDirectory() as folder:
        config = {**load_preset(model).config, "num_hidden_layers": layers}
        (Path(folder) / "config.json").write_text(json.dumps(config))
        return compile_plan(read_job(folder, options))


def _layer(plan: PhasePlan, layer: int) -> list[str]:
    return [call.function for call in plan.calls if call.layer == layer]


def test_the_target_has_a_name_and_its_twins() -> None:
    assert target_by_name("cuda") is cuda.TARGET
    merged = {one.name for one in MERGES if not is_collective(one.name)}
    assert merged <= set(RULES)


@pytest.mark.parametrize(
    ("model", "layers", "layer", "expected"),
    [
        ("glm-4-9b-0414", LAYERS, 3, DENSE),
        ("glm-4.5-air", LAYERS, 1, MIXTURE),
        pytest.param("glm-4.6", LAYERS, 5, MIXTURE, marks=pytest.mark.slow),
        pytest.param("glm-4-9b-0414", None, 3, DENSE, marks=pytest.mark.slow),
        pytest.param("glm-4.5-air", None, 1, MIXTURE, marks=pytest.mark.slow),
        pytest.param("glm-4.6", None, 50, MIXTURE, marks=pytest.mark.slow),
    ],
)
def test_calls_of_a_decode_layer(
    model: str, layers: int | None, layer: int, expected: list[str]
) -> None:
    compiled = _compiled(model, layers)
    plan = compiled.plans[DECODE.key]
    assert _layer(plan, layer) == expected
    others = {len(_layer(plan, index)) for index in range(3, compiled.job.source.shape.layers)}
    assert others == {len(expected)}


@pytest.mark.parametrize("model", ["glm-4-9b-0414", "glm-4.5-air"])
def test_a_decode_step_is_one_device_graph_and_ends_with_its_tokens(model: str) -> None:
    plan = _compiled(model).plans[DECODE.key]
    assert [segment.captured for segment in plan.segments] == [True]
    assert not any(spec.name.endswith("_host") for spec in plan.inputs)
    assert plan.calls[0].function == "cuda.embedding"
    last = plan.calls[-1]
    assert last.function == "cuda.greedy"
    assert last.arguments["logits"] == BufferArgument(plan.output)
    assert last.arguments["out"] == BufferArgument(plan.greedy)  # type: ignore[arg-type]
    buffers = {buffer.id: buffer for buffer in plan.buffers}
    tokens = buffers[plan.greedy]  # type: ignore[index]
    assert (tokens.dtype, tokens.last) == ("int64", len(plan.calls) - 1)
    assert phase_from_json(phase_to_json(plan)) == plan


def test_prefill_reads_its_lengths_on_the_host_in_attention_alone() -> None:
    plan = _compiled("glm-4.5-air").plans[PREFILL.key]
    assert {call.function for call in plan.calls if call.host} == {"cuda.prefill_attention"}


def test_the_head_of_prefill_sees_the_last_position_of_each_sequence_alone() -> None:
    plan = _compiled("glm-4-9b-0414").plans[PREFILL.key]
    buffers = {buffer.id: buffer for buffer in plan.buffers}
    head = plan.calls[-2]
    x = head.arguments["x"]
    assert head.function == "cuda.linear" and isinstance(x, BufferArgument)
    assert [str(extent) for extent in buffers[x.buffer].shape] == ["sequences", "4096"]


def test_the_report_counts_the_merges() -> None:
    passes = {one["name"]: one["matches"] for one in _compiled("glm-4.5-air").report.passes}
    assert passes["rope_decode_attention"] == LAYERS
    assert (passes["moe_ffn_shared"], passes["linear_swiglu"]) == (LAYERS - 1, 1)


def test_other_targets_merge_nothing() -> None:
    compiled = _compiled("glm-4.5-air", target="cpu")
    names = {one["name"] for one in compiled.report.passes}
    assert not names & {one.name for one in MERGES}
    assert compiled.plans[DECODE.key].greedy is None


def test_computes_in_three_dtypes() -> None:
    assert set(cuda.TARGET.dtypes) == {torch.float32, torch.bfloat16, torch.float16}


def test_rows_of_a_decode_step_do_not_see_each_other() -> None:
    """They are written and attended over in one launch, unlike those of prefill."""
    compiled = _compiled("glm-4.5-air")
    assert (
        compiled.plans[DECODE.key].fused_cache_write
        and not compiled.plans[PREFILL.key].fused_cache_write
    )

"""``--dtype auto``: a model within the range, weights beyond it, activations beyond it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc.dtype_choice import DtypeChoice
from glmc.errors import UsageError
from glmc.estimates.rates import rates_for
from glmc.job import read_job
from glmc.range_check.cost import Rates
from glmc.range_check.decide import decide_dtype
from tests.range_check.altered import DENSE, MOE, alter, checkpoint
from tests.support.command import SMALL, command_of
from tests.support.thinned import thinned

pytestmark = pytest.mark.usefixtures("shared_captures")
AUTO = CompileOptions(
    target="xpu",
    dtype="auto",
    max_context=64,
    decode_buckets=(1, 2),
    prefill_buckets=(16, 64),
)
GATE_UP = "model.layers.1.mlp.gate_up_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
RATES = Rates(
    "a card", {"float16": 2e12, "bfloat16": 1e12, "float32": 1e12}, 1e15, "made up for a test"
)


def loud(directory: Path) -> Path:
    """A checkpoint whose second layer says what float16 can't hold, by weights that it can."""
    model = checkpoint(directory, DENSE)
    alter(model, GATE_UP, lambda weight: weight * 2.0**9)
    return alter(model, DOWN, lambda weight: weight * 2.0**13)


def choice_of(model: Path, options: CompileOptions = AUTO) -> DtypeChoice:
    job = decide_dtype(read_job(model, options))
    assert job.choice is not None
    assert job.dtype == job.lowering.dtype == getattr(torch, job.choice.dtype)
    return job.choice


@pytest.mark.parametrize("preset", thinned([DENSE, MOE], long=[MOE]))
def test_a_model_within_the_range_is_float16(preset: str, tmp_path: Path) -> None:
    choice = choice_of(checkpoint(tmp_path / "model", preset))
    assert choice.dtype == "float16"
    assert {"glmc.linear", "glmc.attention"} <= {each.name for each in choice.ops}
    assert choice.largest_weight is not None and choice.weights > 10
    assert choice.prompt == "64 fixed token ids, as there is no tokenizer"


def test_weights_beyond_the_range_forbid_it_and_nothing_is_run(tmp_path: Path) -> None:
    def beyond(weight: torch.Tensor) -> torch.Tensor:
        weight[3, 5] = -70000.0
        return weight

    choice = choice_of(alter(checkpoint(tmp_path / "model", DENSE), DOWN, beyond))
    assert choice.dtype == "bfloat16" and not choice.ops
    assert choice.reason == (f"weights forbid float16, which ends at 65504: 7.01e+04 in {DOWN}")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_forbid_it(value: float, tmp_path: Path) -> None:
    def broken(weight: torch.Tensor) -> torch.Tensor:
        weight[0] = value
        return weight

    choice = choice_of(alter(checkpoint(tmp_path / "model", DENSE), "model.norm.weight", broken))
    assert choice.dtype == "bfloat16"
    assert choice.reason.endswith(f"{value} in model.norm.weight")


def test_the_largest_float16_is_within_the_range(tmp_path: Path) -> None:
    """The bound itself is allowed of a weight: no headroom, as every weight is known."""

    def at_the_bound(weight: torch.Tensor) -> torch.Tensor:
        weight = weight.float() * 0.0
        weight[3, 5] = 65280.0  # the largest bfloat16 that is a float16
        return weight

    found = choice_of(alter(checkpoint(tmp_path / "model", DENSE), DOWN, at_the_bound))
    assert found.largest_weight is not None and found.largest_weight.largest == "6.53e+04"
    assert "weights forbid" not in found.reason


def test_activations_beyond_the_range_name_op_node_and_layer(tmp_path: Path) -> None:
    """Each weight is small enough, its products are not: the first op beyond is told."""
    choice = choice_of(loud(tmp_path / "model"))
    assert choice.dtype == "bfloat16"
    assert choice.reason.startswith("activations forbid float16, which ends at 65504")
    assert "in glmc.linear at model.layers.1.mlp.down_proj#linear, layer 1" in choice.reason
    assert choice.ops and choice.ops[0].name in choice.remarks[2]


@pytest.mark.long
def test_what_lies_between_the_kernels_of_an_op_counts(tmp_path: Path) -> None:
    """The product of one expert overflows where the router's weights make its sum small again."""
    up = "model.layers.1.mlp.experts.{}.up_proj.weight"
    down = "model.layers.1.mlp.experts.{}.down_proj.weight"
    model = checkpoint(tmp_path / "model", MOE)
    for expert in range(6):
        alter(model, up.format(expert), lambda weight: weight * 2.0**19)
        alter(model, down.format(expert), lambda weight: weight * 2.0**-19)
    choice = choice_of(model)
    assert choice.dtype == "bfloat16"
    assert "in glmc.moe_ffn at " in choice.reason and choice.reason.endswith("layer 1")


def test_headroom_is_asked_of_activations(tmp_path: Path) -> None:
    """A model within the range by less than the headroom is not taken."""
    plain = choice_of(checkpoint(tmp_path / "plain", DENSE))
    lies = next(each for each in plain.ops if each.name == "glmc.embedding")
    factor = 2.0 ** math.floor(math.log2(40000.0 / float(lies.largest)))
    name = "model.embed_tokens.weight"
    model = checkpoint(tmp_path / "model", DENSE)
    choice = choice_of(alter(model, name, lambda weight: weight * factor))
    found = next(each for each in choice.ops if each.name == "glmc.embedding")
    assert 16376 < float(found.largest) < 65504
    assert choice.dtype == "bfloat16" and "glmc.embedding" in choice.reason


def test_a_prompt_needs_a_tokenizer(tmp_path: Path) -> None:
    options = CompileOptions(target="xpu", dtype="auto", calibration_prompt="Hello")
    with pytest.raises(UsageError, match="no tokenizer"):
        choice_of(checkpoint(tmp_path / "model", DENSE), options)


def test_costs_are_predicted_by_the_rates_that_are_given(tmp_path: Path) -> None:
    job = decide_dtype(read_job(checkpoint(tmp_path / "model", DENSE), AUTO), rates=RATES)
    assert job.choice is not None
    prefill, decode = job.choice.predicted
    assert prefill.startswith(
        "predicted for a card (made up for a test): a prefill of 64 tokens takes at least "
    )
    assert "in float16 and" in prefill and prefill.endswith("in bfloat16")
    assert "a decode step of 2 sequences" in decode
    assert job.choice.remarks[-2:] == job.choice.predicted


def test_a_promise_leaves_one_dtype_and_no_weight_is_read(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model", DENSE)
    choice = choice_of(model, replace(AUTO, deterministic="batch"))
    assert (choice.dtype, choice.weights) == ("bfloat16", 0)
    assert choice.reason == "no kernel with a fixed order of sums computes in float16"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_elsewhere_it_is_the_checkpoints(target: str, tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model", DENSE)
    job = read_job(model, CompileOptions(target=target, dtype="auto", weights="none"))
    assert decide_dtype(job) is job and not job.undecided
    assert job.choice == DtypeChoice(
        "bfloat16", f"it is the checkpoint's, and on {target} float16 has no lead"
    )


def test_a_named_dtype_is_not_weighed(tmp_path: Path) -> None:
    job = read_job(checkpoint(tmp_path / "model", DENSE), CompileOptions(target="xpu"))
    assert decide_dtype(job) is job and job.choice is None


def test_an_undecided_job_is_refused_by_who_does_not_decide(tmp_path: Path) -> None:
    job = read_job(checkpoint(tmp_path / "model", DENSE), AUTO)
    with pytest.raises(UsageError, match="does not decide --dtype auto"):
        job.require_supported()


@pytest.mark.long
def test_the_command_says_why_and_makes_the_same_bytes_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = command_of(capsys)
    model = checkpoint(tmp_path / "model", DENSE)
    texts = []
    for name in ("one", "two"):
        asked = ("--target", "xpu", "--dtype", "auto", *SMALL)
        outcome = run("compile", model, *asked, "-o", tmp_path / name)
        assert outcome.status == 0, outcome
        assert "float16 for xpu" in outcome.out
        assert "note: --dtype auto: float16, because weights are within its range" in outcome.out
        assert "range of activations" in outcome.err
        assert outcome.out.count("predicted for Kunlun P800 (third-party figures): a ") == 2
        texts.append((tmp_path / name / "manifest.json").read_bytes())
    assert texts[0] == texts[1]
    manifest = json.loads(texts[0])
    assert manifest["dtype"] == "float16"
    report = json.loads((tmp_path / "one" / "report.json").read_text(encoding="utf-8"))
    assert report["options"]["dtype"] == "float16"
    job = read_job(model, AUTO)
    choice = decide_dtype(job, rates=rates_for(job)).choice
    assert choice is not None
    assert report["dtype_choice"] == json.loads(json.dumps(asdict(choice)))


def test_python_decides_too(tmp_path: Path) -> None:
    model = loud(tmp_path / "model")
    report = compile_model(model, tmp_path / "out", AUTO)
    assert report.options["dtype"] == "bfloat16"
    assert any(remark.startswith("--dtype auto: bfloat16") for remark in report.remarks)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("compile", "--no-weights", "--target", "xpu"), "can't be decided without weights"),
        (("compile", "--calibration-prompt", "a", "--target", "cuda"), "is only run to decide"),
        (("fit",), "glmc fit does not decide"),
        (("bisect",), "glmc bisect does not decide"),
    ],
)
def test_where_nothing_can_be_decided_it_is_refused_by_name(
    command: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = checkpoint(tmp_path / "model", DENSE)
    name, *flags = command
    outcome = command_of(capsys)(name, model, *flags, "--dtype", "auto")
    assert outcome.status == 2 and says in outcome.err

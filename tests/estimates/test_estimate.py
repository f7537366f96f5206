"""An estimate of a tiny model: its floors by hand, its memory, its words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import glmc
from glmc.errors import UsageError
from glmc.estimates.costs import ATTENTION, EXPERTS, OTHER, PRODUCT, Cost, Step
from glmc.estimates.device_file import read_device
from glmc.estimates.estimate import Estimate, estimate
from glmc.estimates.seconds import between_steps, call_floor, call_seconds
from glmc.estimates.step_estimate import EstimatedStep
from glmc.estimates.traffic import Traffic
from glmc.estimates.words import COLUMNS, detail, header, notes, rows, title, to_json
from glmc_runtime.errors import ArtifactError
from tests.support.checkpoints import tiny_file

pytestmark = pytest.mark.usefixtures("shared_captures")

H200 = read_device("h200")
BYTES = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    config = tiny_file("glm-4.7", num_hidden_layers=5, first_k_dense_replace=3)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def made(shared_captures: None, model: Path) -> Estimate:
    return estimate(model, "h200", Traffic((3, 4), 40, 16))


def _line(step: EstimatedStep, op: str, module: str) -> tuple[int, Cost]:
    found = [
        each.line
        for each in step.lines
        if each.line.op == op and each.line.module.startswith(module)
    ]
    assert len(found) == 1
    return found[0].count, found[0].cost


def test_floors_of_a_decode_step_by_hand(made: Estimate) -> None:
    step = made.placed.steps[1]
    assert step.step == Step("decode", 4, 1, 40, 4)
    rows, hidden, heads, kv, head, vocabulary = 4, 32, 4, 2, 16, 96
    qkv = (heads + 2 * kv) * head
    count, cost = _line(step, "linear", "self_attn.q_proj")
    assert count == 5
    assert cost.kind == PRODUCT
    assert cost.flops == 2 * rows * hidden * qkv
    biases = qkv
    assert cost.bytes == BYTES * (rows * hidden + hidden * qkv + biases + rows * qkv)
    count, cost = _line(step, "linear", "lm_head")
    assert (count, cost.flops) == (1, 2 * rows * hidden * vocabulary)
    count, cost = _line(step, "rope_decode_attention", "self_attn")
    assert (count, cost.kind) == (5, ATTENTION)
    assert cost.flops == pytest.approx(4 * rows * heads * head * 40)
    cache = 2 * rows * 40 * kv * head * BYTES
    assert cache < cost.bytes < cache * 1.3
    count, cost = _line(step, "add_rms_norm", "post_attention_layernorm")
    assert (count, cost.kind) == (5, OTHER)
    assert cost.bytes == BYTES * (4 * rows * hidden + hidden)


def test_experts_are_those_that_tokens_draw(made: Estimate) -> None:
    count, cost = _line(made.placed.steps[1], "moe_ffn_shared", "mlp")
    assert (count, cost.kind) == (2, EXPERTS)
    rows, hidden, width, experts, chosen = 4, 32, 24, 6, 2
    drawn = experts * (1 - (1 - chosen / experts) ** rows)
    expert = 3 * hidden * width
    ids_and_weights = rows * chosen * (8 + 4)
    tokens = 2 * rows * hidden * BYTES
    assert cost.bytes == pytest.approx((drawn + 1) * expert * BYTES + tokens + ids_and_weights)
    assert cost.flops == 2 * rows * (chosen + 1) * expert


def test_a_prefill_attends_to_what_is_before_a_token(made: Estimate) -> None:
    step = made.placed.steps[2]
    assert step.step == Step("prefill", 1, 16, 16, 16)
    _, cost = _line(step, "prefill_attention", "self_attn")
    assert cost.flops == pytest.approx(4 * 4 * 16 * (16 * 17 / 2))
    assert step.launches.eager == step.kernels
    assert step.launches.graphs == 0


def test_padding_of_a_bucket_is_computed_but_has_no_keys(made: Estimate) -> None:
    padded, whole = made.placed.steps[0], made.placed.steps[1]
    assert padded.step == Step("decode", 3, 1, 40, 4)
    assert _line(padded, "linear", "lm_head") == _line(whole, "linear", "lm_head")
    attended = [_line(step, "rope_decode_attention", "self_attn")[1] for step in (padded, whole)]
    assert attended[0].flops == pytest.approx(attended[1].flops * 3 / 4)


def test_every_launch_is_of_one_line(made: Estimate) -> None:
    for step in made.placed.steps[:2]:
        # Embedding, of 5 layers 5 calls, of 2 gate and experts, of 3 an MLP, norm, head, greedy.
        assert step.kernels == 1 + 5 * 5 + 2 * 2 + 3 * 2 + 2 + 1
        assert (step.launches.eager, step.launches.graphs) == (0, 1)
        assert step.floor < step.device == step.seconds


def test_the_time_model() -> None:
    cost = Cost(PRODUCT, 4.49e6, 7.91e8)  # a microsecond of either
    assert call_floor(H200, "bfloat16", cost) == pytest.approx(1e-6)
    calls, launch = H200.calls[PRODUCT], H200.launch.graph.value
    p = H200.overlap.value
    both = 1e-6 * (calls.read.value**p + calls.multiply.value**p) ** (1 / p)
    fixed = 3 * (launch + calls.seconds.value)
    assert call_seconds(H200, "bfloat16", cost, 3) == pytest.approx(fixed + both)
    with pytest.raises(UsageError, match="no rate of float32"):
        call_floor(H200, "float32", cost)


def test_a_slow_host_is_waited_for(model: Path, made: Estimate) -> None:
    slow = replace(H200.launch, eager=replace(H200.launch.eager, value=1.0))
    step = estimate(model, replace(H200, launch=slow), Traffic((4,), 40, 16)).placed.steps[0]
    assert step.host == step.seconds == 1.0
    assert step.device == made.placed.steps[1].device
    assert "the host's launches take longer" in detail(step)


def test_what_is_between_two_steps_counts(model: Path, made: Estimate) -> None:
    number = replace(H200.launch.step, value=0.5)
    device = replace(
        H200,
        launch=replace(H200.launch, step=number),
        links=replace(H200.links, step=replace(number, value=2.0)),
    )
    step = estimate(model, device, Traffic((4,), 40, 16)).placed.steps[0]
    assert step.between == 0.5  # one card tells nobody
    assert step.seconds == made.placed.steps[1].seconds + 0.5
    assert ", 500.00 ms between two steps" in detail(step)
    assert "between two steps" not in detail(made.placed.steps[1])
    assert between_steps(device, 2) == 2.5
    assert between_steps(H200, 2) == 0.0


def test_memory_is_that_of_fit(model: Path, made: Estimate) -> None:
    from glmc.fit import model_fit
    from glmc_runtime.loading.fit import Wanted

    report = model_fit(model, Wanted(("141GB",), 4, 40), "cuda", None)
    assert made.placed.needs == report.needs
    assert made.placed.total == report.total
    assert made.placed.fits
    small = replace(made.placed, device=replace(H200, memory=replace(H200.memory, value=1.0)))
    assert not small.fits
    assert small.largest_batch == small.longest_context == 0


def test_words_and_json(made: Estimate) -> None:
    text = "\n".join([*header(made), *notes(made), *map(title, made.placed.steps)])
    assert "predicted" in text
    assert "3 x" not in text
    assert "4 x 40 tokens" in text
    assert "in the bucket of 4" in title(made.placed.steps[0])
    assert {len(row) for step in made.placed.steps for row in rows(step)} == {len(COLUMNS)}
    data = json.loads(json.dumps(to_json(made)))
    assert data["predicted"] is True
    assert data["device"]["numbers"]["read"]["source"]
    assert data["memory"]["fits"] is True
    (line,) = (each for each in data["steps"][0]["lines"] if each["op"] == "moe_ffn_shared")
    assert line["layers"] == "3 to 4"
    assert data["options"][0]["best"] is True
    assert data["steps"][0]["seconds"] == made.placed.steps[0].seconds


def test_python(model: Path, made: Estimate) -> None:
    found = glmc.estimate(model, "h200", batches=(3, 4), context=40, prompt=16)
    assert found == made
    assert (
        glmc.estimate(model, "h200", batches=4, context=40).placed.steps[0] == made.placed.steps[1]
    )
    with pytest.raises(UsageError, match="no integer"):
        glmc.estimate(model, "h200", batches=(1.5,))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no option 'batch'"):
        glmc.estimate(model, "h200", batch=1)  # type: ignore[call-arg]
    with pytest.raises(ArtifactError, match="no table of collectives"):
        glmc.estimate(model, "h200", cards=2, collectives="{}")


def test_a_host_has_so_many_cards(model: Path) -> None:
    with pytest.raises(UsageError, match="a host with 8 cards"):
        estimate(model, "h200", Traffic((1,), 40), cards=9)


@pytest.mark.long
def test_third_party_numbers_are_said_to_be_such(tmp_path: Path) -> None:
    config = tiny_file("glm-4.7", num_hidden_layers=5, first_k_dense_replace=3, head_dim=32)
    (tmp_path / "config.json").write_text(json.dumps(config))
    made = estimate(tmp_path, "p800", Traffic((1,), 40, 16), "float16")
    assert "predicted, from third-party numbers" in next(header(made))
    step = made.placed.steps[0]
    assert step.launches.eager == 5  # attention reads lengths on the host
    assert step.launches.graphs == 6


@pytest.mark.parametrize(
    ("traffic", "message"),
    [
        (Traffic((1,), 4096), "positions that far"),
        (Traffic((1,), 40, 4096), "positions that far"),
        (Traffic((0,), 40), "at least one sequence"),
        (Traffic((), 40), "at least one sequence"),
        (Traffic((10**15,), 40), "not more than a tensor can hold"),
    ],
)
def test_traffic_that_can_not_be(model: Path, traffic: Traffic, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        estimate(model, "h200", traffic)

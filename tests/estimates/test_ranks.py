"""Estimates of several cards: memory, messages, the algorithms of a table, the best way to deal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from glmc.compiler import dealt
from glmc.config import CompileOptions
from glmc.errors import UsageError
from glmc.estimates.collectives import Group, group_of
from glmc.estimates.costs import COLLECTIVE, EXPERTS, Step, node_cost
from glmc.estimates.device_file import read_device
from glmc.estimates.estimate import Estimate, estimate
from glmc.estimates.few_layers import captured
from glmc.estimates.placement import Placement, placements
from glmc.estimates.traffic import Traffic
from glmc.estimates.words import OPTIONS, detail, header, notes, option_rows, to_json
from glmc.ir.match import is_op
from glmc.ir.ops.collectives import ALL_REDUCES
from glmc.job import resolve
from glmc.presets.catalog import load_config
from glmc_runtime.errors import ArtifactError, PlanError
from glmc_runtime.format.algorithms import ANY_ORDER, Link
from glmc_runtime.format.collectives import (
    ONE_HOST,
    AlgorithmTable,
    Band,
    Curve,
    GroupKey,
    Origin,
    TableEntry,
    default_table,
)
from glmc_runtime.format.collectives_json import table_to_text
from glmc_runtime.format.phases import DECODE
from tests.support.checkpoints import tiny_file

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("shared_captures")]

H200, P800 = read_device("h200"), read_device("p800")
CPU = replace(H200, target="cpu", product={**H200.product, "float32": H200.product["bfloat16"]})
TRAFFIC = Traffic((8,), 40, 16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    config = tiny_file("glm-4.7", num_hidden_layers=5, first_k_dense_replace=3)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def two(model: Path) -> Estimate:
    return estimate(model, CPU, TRAFFIC, "float32", 2, 2)


def test_a_rank_has_its_part(model: Path, two: Estimate) -> None:
    whole = estimate(model, CPU, TRAFFIC, "float32")
    assert two.placed.needs.token * 2 == whole.placed.needs.token  # 2 KV heads
    ratio = two.placed.needs.weights / whole.placed.needs.weights
    assert 0.5 < ratio < 0.6  # norms and routers are whole on each
    assert two.placed.batch == whole.placed.batch == 8


def test_every_layer_tells_twice(two: Estimate) -> None:
    step = two.placed.decode
    reduced = [each for each in step.collectives if each.line.op in ALL_REDUCES]
    assert sum(each.line.count for each in reduced) == 1 + 2 * 5
    assert {each.line.cost.message for each in reduced} == {8 * 32 * 4.0}
    (gathered,) = (each for each in step.collectives if each.line.op == "all_gather")
    assert gathered.line.cost.message == 8 * 48 * 4
    assert step.messages == 11 * 8 * 32 * 4 + 8 * 48 * 4
    assert 0 < step.communication < 1
    assert "in 12 messages" in detail(step)
    for each in step.collectives:
        assert each.line.cost.kind == COLLECTIVE
        assert 0 < each.floor <= each.seconds


@pytest.mark.parametrize("ranks", [2, 4])
def test_experts_of_a_rank(model: Path, ranks: int) -> None:
    """With experts whole a rank has some of them, and each token chooses of all. Four ranks have
    two of six each, of which the last has none: the first is what a step waits for."""
    options = CompileOptions(dtype="float32", weights="none")
    few = captured(resolve(load_config(model), options))
    options = replace(options, tensor_parallel=ranks, expert_parallel=True)
    program = dealt(few.fused, resolve(few.few, options)).phases.programs[DECODE.key]
    (node, *_) = (node for node in program.graph.nodes if is_op(node, "glmc.local_moe_ffn"))
    cost = node_cost(node, program, Step(DECODE.name, 8, 1, 40, 8), 128)
    assert cost.kind == EXPERTS
    rows, hidden, width, experts, chosen = 8, 32, 24, 6, 2
    mine = {2: 3, 4: 2}[ranks]
    expert, drawn = 3 * hidden * width, mine * (1 - (1 - chosen / experts) ** rows)
    beside = 2 * rows * hidden * 4 + rows * chosen * (8 + 4) + 8
    assert cost.bytes == pytest.approx(drawn * expert * 4 + beside)
    assert cost.flops == pytest.approx(2 * rows * chosen * expert * mine / experts)


def test_every_way_is_compared(model: Path) -> None:
    made = estimate(model, CPU, TRAFFIC, "float32", 4)
    found = {str(each.placement): each for each in made.options}
    assert set(found) == {"4 x TP1", "2 x TP2", "2 x TP2 EP", "TP4", "TP4 EP"}
    assert made.refused == ()
    ops = {each.line.op for each in found["TP4 EP"].decode.lines}
    assert "local_moe_ffn" in ops and "moe_ffn" not in ops
    assert (found["4 x TP1"].batch, found["2 x TP2"].batch, found["TP4"].batch) == (2, 4, 8)
    assert made.placed.tokens_per_second == max(each.tokens_per_second for each in made.options)
    assert {len(row) for row in option_rows(made)} == {len(OPTIONS)}
    assert sum("(best)" in row[0] for row in option_rows(made)) == 1
    none = replace(CPU, memory=replace(CPU.memory, value=1.0))
    rows = list(option_rows(estimate(model, none, TRAFFIC, "float32", 4)))
    assert [sum(word in row[0] for row in rows) for word in ("(best)", "(shown)")] == [0, 1]
    least = min(each.total for each in made.options)
    tight = replace(CPU, memory=replace(CPU.memory, value=float(least)))
    assert estimate(model, tight, TRAFFIC, "float32", 4).placed.total == least
    data = json.loads(json.dumps(to_json(made)))
    assert len(data["options"]) == len(made.options)
    assert "4 NVIDIA H200" in next(header(made))


def measured_table(ranks: int) -> str:
    """Of float32, where a butterfly takes 20 us for 1 KiB and 30 for 2, and nothing else is
    timed."""
    entry = TableEntry(
        GroupKey(ranks, ONE_HOST, "float32"),
        ANY_ORDER,
        (Band(4096, "butterfly"), Band(None, "ring")),
        Origin("measured", "2026-09-01", "a desk"),
        (Link("messages", 10.0, 100.0),),
        (Curve("butterfly", (1024, 2048), (20.0, 30.0)),),
    )
    return table_to_text(AlgorithmTable((entry,)))


def test_a_measured_table_has_the_times(model: Path) -> None:
    made = estimate(model, CPU, TRAFFIC, "float32", 2, 2, collectives=measured_table(2))
    reduced, gathered = ({}, {})
    for each in made.placed.decode.collectives:
        found = gathered if each.line.op == "all_gather" else reduced
        found[each.algorithm] = each.seconds
    assert reduced == {"butterfly": pytest.approx(20e-6)}  # of 1 KiB
    assert gathered == {"library": pytest.approx((10 + 8 * 48 * 4 / 100) * 1e-6)}
    # What was not timed goes by the link that was measured: the ring of 16 KiB.
    group = made.placed.group
    assert group is not None
    name, seconds = group.seconds("all_reduce", 16384, "float32")
    assert (name, seconds) == ("ring", pytest.approx((2 * 10 + 16384 / 100) * 1e-6))
    assert group.best(16384, "float32")[0] == "butterfly"  # the only one that was timed
    assert any("measured 2026-09-01 on a desk" in line for line in notes(made))


def test_ways_that_a_table_knows_nothing_of_are_said(model: Path) -> None:
    made = estimate(model, CPU, TRAFFIC, "float32", 4, collectives=measured_table(4))
    assert [str(each) for each, _ in made.refused] == ["2 x TP2", "2 x TP2 EP"]
    assert {str(each.placement) for each in made.options} == {"4 x TP1", "TP4", "TP4 EP"}
    text = list(notes(made))
    assert all(any(line.startswith(f"{each}: ") for line in text) for each, _ in made.refused)
    with pytest.raises(PlanError, match="no bands for this group"):
        estimate(model, CPU, TRAFFIC, "float32", 2, 2, collectives=measured_table(4))


def test_tables_that_can_not_be(model: Path) -> None:
    with pytest.raises(ArtifactError, match="collectives"):
        estimate(model, CPU, TRAFFIC, "float32", 2, collectives="{}")
    with pytest.raises(UsageError, match="one card"):
        estimate(model, CPU, TRAFFIC, "float32", collectives=measured_table(2))


def test_the_table_chooses_by_the_message() -> None:
    group = group_of(P800, 8)
    assert isinstance(group, Group)
    alpha, beta = (each.value for each in vars(P800.links.messages).values())
    name, seconds = group.seconds("all_reduce", 16384, "bfloat16")
    assert (name, seconds) == ("butterfly", pytest.approx(3 * (alpha + 16384 * beta)))
    name, seconds = group.seconds("all_reduce", 4 << 20, "bfloat16")
    ring = 14 * alpha + 2 * 7 / 8 * (4 << 20) * beta
    assert (name, seconds) == ("ring", pytest.approx(ring))
    assert group.best(16384, "float16")[0] == "butterfly"
    assert group.best(64 << 20, "float16")[0] in ("ring", "halving_doubling")
    # 25.5 us for 16 KiB on eight cards were published.
    assert group.seconds("all_reduce", 16384, "float16")[1] == pytest.approx(25.5e-6, rel=0.01)


@pytest.mark.parametrize(("size", "us"), [(1024, 11.1), (8192, 11.9), (1 << 26, 252.2)])
def test_two_h200s_are_what_was_measured(size: int, us: float) -> None:
    group = group_of(H200, 2)
    assert group is not None
    name, seconds = group.seconds("all_reduce", size, "bfloat16")
    assert name == "library"
    assert seconds == pytest.approx(us * 1e-6, rel=0.1)


def test_one_rank_tells_nobody() -> None:
    assert group_of(H200, 1) is None
    assert default_table("cuda", 2).entries


def test_placements() -> None:
    assert placements(1, None, False, True) == (Placement(1, False, 1),)
    assert placements(8, 4, True, True) == (Placement(4, True, 2),)
    assert [str(each) for each in placements(6, None, False, False)] == [
        "6 x TP1",
        "3 x TP2",
        "TP4",
    ]
    for cards, ranks, ep, moe in (
        (0, None, False, True),
        (2, 4, False, True),
        (2, None, True, False),
        (2, 2, True, False),
    ):
        with pytest.raises(UsageError):
            placements(cards, ranks, ep, moe)

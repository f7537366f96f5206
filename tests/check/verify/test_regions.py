"""Regions: each rewrite alone, whatever the pass, and both halves on the same values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from glmc.check.verify.execution import BoundInputs, each_region
from glmc.check.verify.regions import Region, regions
from glmc.ir.program import Program
from glmc.pipeline import runner
from glmc.pipeline import stages as pipeline
from glmc.pipeline.records import PassRecord
from tests.support.models import captured, example_inputs, tiny_config, tiny_model, weights_of
from tests.support.observing import Steps

ONE_EACH = ("rms_norm", "rope", "qk_norm", "attention", "moe_gate", "moe_ffn", "gate_up_merge")
Step = tuple[Program, Program, tuple[Region, ...], PassRecord]


@pytest.fixture(scope="module")
def config() -> Any:
    return tiny_config("glm4_moe")


@pytest.fixture(scope="module")
def steps(config: Any) -> dict[str, Step]:
    """Before, after and the regions of every pass."""
    found: dict[str, tuple[Program, Program, tuple[Region, ...]]] = {}
    program = captured(config)
    last = [program.copy()]

    def done(name: str, program: Program) -> None:
        now = program.copy()
        found[name] = (last[0], now, regions(last[0], now))
        last[0] = now

    records = runner.fuse(program, Steps(done))
    return {record.name: (*found[record.name], record) for record in records}


@pytest.mark.parametrize("name", ONE_EACH)
def test_every_match_is_a_region_of_its_own(steps: dict[str, Step], name: str) -> None:
    before, after, found, record = steps[name]
    assert len(found) == len(record.matches) > 0
    for region, match in zip(found, record.matches, strict=True):
        assert match.node in region.ids
        assert match.layer == region.layer
        assert set(region.removed).isdisjoint(after.graph.nodes)
        assert set(region.removed) <= set(before.graph.nodes)


def test_both_halves_agree_on_the_values_of_the_model(steps: dict[str, Step], config: Any) -> None:
    model, inputs, compared = tiny_model(config), example_inputs(), 0
    for before, after, found, _ in steps.values():
        known = BoundInputs(before, inputs, weights_of(before, model))
        packed = BoundInputs(after, inputs, weights_of(after, model))
        seen = []
        for ran in each_region(before, found, known, packed):
            seen.append(ran.region)
            for was, now in ran.pairs:
                if isinstance(was, torch.Tensor):
                    torch.testing.assert_close(now, was, rtol=1e-5, atol=1e-6)
                    compared += 1
                else:
                    assert now == was
        assert len(seen) == len(found) and set(seen) == set(found)
    assert compared > 150


def test_a_program_differs_from_its_copy_in_nothing(config: Any) -> None:
    program = captured(config)
    assert regions(program, program.copy()) == ()


def test_a_constant_that_was_edited_in_place_is_a_region(config: Any) -> None:
    program = captured(config)
    changed = program.copy()
    node = next(node for node in changed.graph.nodes if "rsqrt" in str(node.target))
    shifted = node.args[0]
    shifted.args = (shifted.args[0], 0.5)
    (found,) = regions(program, changed)
    assert [item.meta["id"] for item in found.added] == [shifted.meta["id"]]
    assert len(found.removed) == 1


def test_a_weight_that_was_exchanged_is_a_region(config: Any) -> None:
    """The same name with another recipe, and a value that became a weight."""
    program = captured(config)
    runner.run_pass(pipeline.PASSES[0], program)
    changed = program.copy()
    name = next(name for name in changed.weights if name.endswith("up_proj.weight"))
    other = name.replace("up_proj", "gate_proj")
    changed.weights[name] = replace(changed.weights[other], name=name)
    (found,) = regions(program, changed)
    assert not found.added and found.ends[0].after.meta["weight"] == name
    model, inputs = tiny_model(config), example_inputs()
    known = BoundInputs(program, inputs, weights_of(program, model))
    packed = BoundInputs(changed, inputs, weights_of(changed, model))
    ((was, now),) = next(each_region(program, (found,), known, packed)).pairs
    torch.testing.assert_close(was, known[found.ends[0].before])
    assert not torch.equal(was, now)

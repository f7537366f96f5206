"""The pipeline's bookkeeping: lost fusions are named by pass, layer and reason."""

from __future__ import annotations

import pytest

from glmc.compiler import compile_plan
from glmc.config import CompileOptions
from glmc.errors import LoweringError, MatchCountError
from glmc.ir.match import NearMiss
from glmc.ir.program import Program
from glmc.job import read_job
from glmc.passes.base import Match
from glmc.pipeline.expectations import (
    check_matches,
    enforced_counts,
    explain_unfused,
    require_matches,
)
from glmc.pipeline.records import PassRecord
from glmc.pipeline.runner import fuse
from glmc.pipeline.selection import Selection
from glmc.pipeline.stages import FIXED, NEEDS, PASSES
from tests.support.models import captured, tiny_config


def record(name: str, layers: list[int], misses: tuple[NearMiss, ...] = ()) -> PassRecord:
    matches = tuple(Match(f"model.layers.{n}#{name}", f"model.layers.{n}", n) for n in layers)
    return PassRecord(name, "bitwise", 0.0, 10, 9, matches, misses)


def miss(layer: int, condition: str) -> NearMiss:
    module = f"model.layers.{layer}.mlp.gate"
    return NearMiss(
        "moe_gate", f"{module}#gather", f"{module}#div", module, layer, condition, "f:1"
    )


def test_counts_that_agree_are_no_problem() -> None:
    records = (record("rope", [0, 0, 1, 1]), record("moe_gate", [1]))
    assert check_matches(records, {"rope": 4, "moe_gate": 1}) == []
    require_matches(records, {"rope": 4, "moe_gate": 1})


def test_a_lost_match_names_pass_layer_node_and_reason() -> None:
    lost = record("moe_gate", [1, 3], (miss(2, "the eps must be a number"),))
    (line,) = check_matches((record("rope", [0, 1, 2, 3]), lost), {"moe_gate": 3, "rope": 4})
    assert line.startswith("moe_gate: expected 3, found 2, fewest in layers 0, 2 (")
    assert "layer 2: model.layers.2.mlp.gate#div: the eps must be a number f:1" in line


def test_a_layer_is_named_even_without_a_near_miss() -> None:
    (line,) = check_matches((record("rope", [0, 0, 1, 2, 2]),), {"rope": 6})
    assert line == "rope: expected 6, found 5, fewest in layer 1 (no near miss was seen)"


def test_too_many_matches_are_a_problem_too() -> None:
    with pytest.raises(MatchCountError, match="expected 1, found 2"):
        require_matches((record("rope", [0, 1]),), {"rope": 1})


def test_many_reasons_are_counted() -> None:
    lost = record("moe_gate", [], tuple(miss(layer, "no") for layer in range(5)))
    (line,) = check_matches((record("rope", [0, 1, 2, 3, 4]), lost), {"moe_gate": 5})
    assert "and 2 more" in line


def test_a_pass_is_on_the_page_once() -> None:
    names = [one.name for one in PASSES]
    assert len(names) == len(set(names))


@pytest.fixture(scope="module")
def program() -> Program:
    return captured(tiny_config("glm4_moe"))


def counts(records: tuple[PassRecord, ...]) -> dict[str, int]:
    return {record.name: len(record.matches) for record in records}


@pytest.mark.long
def test_what_a_pass_needs_is_what_it_loses_without(program: Program) -> None:
    """NEEDS says for each pass which others must run, no more and no less."""
    whole = counts(fuse(program.copy()))
    expected = {name: number for name, number in whole.items() if number and name not in FIXED}
    for one in PASSES:
        if one.name in FIXED:
            continue
        records = fuse_without(program, one.name)
        without = counts(records)
        lost = {name for name, number in expected.items() if without.get(name, number) < number}
        assert lost == {name for name, needs in NEEDS.items() if one.name in needs}, one.name
        kept = enforced_counts(expected, Selection((), (one.name,)))
        assert check_matches(records, kept) == []
        assert set(expected) - set(kept) == lost | ({one.name} & set(expected))


def fuse_without(program: Program, off: str) -> tuple[PassRecord, ...]:
    return fuse(program.copy(), passes=tuple(one for one in PASSES if one.name != off))


@pytest.mark.usefixtures("shared_captures")
def test_a_pass_that_is_off_is_not_missing() -> None:
    options = CompileOptions(target="xpu", passes_off=("add_rms_norm",), weights="none")
    report = compile_plan(read_job("models/tiny-moe", options)).report
    assert "switched off: add_rms_norm" in report.remarks
    assert "add_rms_norm" not in report.expected_matches
    assert "add_rms_norm" not in [row["name"] for row in report.passes]
    assert report.options["passes_off"] == ("add_rms_norm",)
    kernels = report.phases["decode"]["kernels"]
    assert kernels["aten.add"] >= 8 and not any("add_rms" in name for name in kernels)


def test_what_is_off_without_an_unfused_implementation_fails_with_its_reason(
    program: Program,
) -> None:
    left = program.copy()
    fused = fuse_without(left, "attention")
    error = LoweringError("no", place="layer 0", expected="attention", found="none")
    told = explain_unfused(error, fused, {}, ("attention",))
    assert told.message == "attention switched off: what is left of it can't be compiled"
    assert (told.place, told.expected) == ("layer 0", "attention (needed by qkv_merge)")
    assert told.found == "no: none"
    assert "--passes-off attention" in told.remedy
    assert explain_unfused(error, fused, {}) is error

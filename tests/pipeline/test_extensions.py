"""Passes of other distributions: what must hold of them, and who is named when it doesn't."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.fx import Graph

from glmc.backends import cpu
from glmc.ir.ops import OPS, Numerics
from glmc.ir.ops.facts import Cut, OpFacts, Sharding, no_flops
from glmc.ir.ops.linear import SWIGLU
from glmc.ir.ops.registry import define
from glmc.passes import clean
from glmc.pipeline.extensions import (
    PASSES,
    PassExtension,
    installed_passes,
    load_pass,
    require_references,
    targets_of,
    with_rules,
)
from glmc_runtime.errors import ExtensionError
from tests.support.distributions import install

PASS = """
from types import SimpleNamespace as Made
from glmc.pipeline.extensions import PassExtension
from glmc.ir.ops import Numerics
from glmc.passes.base import PassResult
good = Made(name="{name}", numerics=Numerics.BITWISE, run=lambda program: PassResult())
"""
OBJECTS = {
    "good": "good",
    "whole": "PassExtension(good, after='rope', takes=('rope',))",
    "nothing": "None",
    "a_class": "Made",
    "no_run": "Made(name='mine', numerics=Numerics.BITWISE)",
    "renamed": "Made(name='other', numerics=Numerics.BITWISE, run=print)",
    "no_numerics": "Made(name='mine', numerics='bitwise', run=print)",
    "no_place": "PassExtension(good, after=3)",
    "no_takes": "PassExtension(good, takes='rope')",
    "no_rules": "PassExtension(good, rules={'cpu': {'op': 3}})",
}
WRONG = {
    "nothing": "NoneType is no pass",
    "a_class": "SimpleNamespace is no pass",
    "no_run": "SimpleNamespace is no pass",
    "renamed": "its name is 'other'",
    "no_numerics": "its numerics class is 'bitwise'",
    "no_place": "'after' and 'before' must be pass names",
    "no_takes": "it takes 'rope'",
    "no_rules": "its rules are no rules",
}

FACTS = OpFacts(
    tokens=("x",),
    summed=(),
    flops=no_flops,
    accessed={},
    shardings=(Sharding("column", {"x": Cut(-1)}, (Cut(-1),)),),
    strided=(),
)


def installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, value: str = "mine_module:good"
) -> None:
    source = PASS.format(name="mine") + "".join(
        f"{name} = {made}\n" for name, made in OBJECTS.items() if name != "good"
    )
    install(folder, "some-passes", {PASSES: {"mine": value}}, {"mine_module.py": source})
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "mine_module", raising=False)


@pytest.mark.parametrize("name", ["good", "whole"])
def test_a_pass_is_found_by_its_entry_point(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, f"mine_module:{name}")
    assert installed_passes() == ("mine",)
    assert "mine_module" not in sys.modules  # a name is read, not its code
    found = load_pass("mine", ("rope",))
    assert found is not None
    assert (found.name, found.extension.body.name) == ("mine", "mine")
    assert found.entry.distribution == "some-passes 0.1.0"
    assert found.extension.after == ("rope" if name == "whole" else None)
    assert load_pass("yours", ()) is None


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_pass_is_refused_with_its_origin(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, f"mine_module:{name}")
    with pytest.raises(ExtensionError, match="'mine' can't be used as a pass") as caught:
        load_pass("mine", ())
    assert WRONG[name] in caught.value.message
    assert "some-passes 0.1.0" in caught.value.place
    assert f"'mine = mine_module:{name}'" in caught.value.place


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("nowhere_to_be_found:PASS", "ModuleNotFoundError"),
        ("mine_module:gone", "AttributeError"),
        ("mine module", "AttributeError"),
        ("raising_module:PASS", "ZeroDivisionError"),
        ("broken_module:PASS", "SyntaxError"),
    ],
)
def test_code_that_does_not_import_is_refused_with_its_origin(
    value: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, value)
    (tmp_path / "raising_module.py").write_text("1 / 0")
    (tmp_path / "broken_module.py").write_text("def")
    with pytest.raises(ExtensionError, match=f"can't be imported: {reason}") as caught:
        load_pass("mine", ())
    assert "some-passes 0.1.0" in caught.value.place and PASSES in caught.value.place
    assert caught.value.__cause__ is not None


def test_two_distributions_must_not_claim_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path / "one", monkeypatch)
    install(tmp_path / "two", "other-passes", {PASSES: {"mine": "x:y"}}, version="3")
    monkeypatch.syspath_prepend(tmp_path / "two")
    with pytest.raises(ExtensionError, match="more than once") as caught:
        load_pass("mine", ())
    assert caught.value.found == "other-passes 3, some-passes 0.1.0"


def test_names_of_glmc_and_names_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {"rope": "x:y", "../up": "x:y", "Rope": "x:y"}
    install(tmp_path, "some-passes", {PASSES: points})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ExtensionError, match="a name of glmc itself") as caught:
        load_pass("rope", ("rope", "clean"))
    assert "some-passes" in caught.value.place
    for name in ("../up", "Rope"):
        with pytest.raises(ExtensionError, match="is no name for a pass"):
            load_pass(name, ("rope",))


def test_a_rule_joins_the_target_and_replaces_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch)
    found = load_pass("mine", ())
    assert found is not None

    def bring(rules: dict[str, object]) -> object:
        extension = PassExtension(found.extension.body, rules=rules)  # type: ignore[arg-type]
        return with_rules(cpu.TARGET, (type(found)(extension, found.entry),))

    made = bring({"cpu": {"mine": print}, "xpu": {"swiglu": print}})
    assert set(made.rules) - set(cpu.TARGET.rules) == {"mine"}  # type: ignore[attr-defined]
    assert "mine" not in cpu.TARGET.rules
    assert with_rules(cpu.TARGET, ()) is cpu.TARGET
    with pytest.raises(ExtensionError, match="a rule that cpu already has") as caught:
        bring({"cpu": {"swiglu": print}})
    assert caught.value.found == "swiglu"


def test_a_call_needs_a_reference() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    before = targets_of(graph)
    graph.call_function(SWIGLU.overload, (x,))
    graph.call_function(torch.ops.aten.silu.default, (x,))
    require_references("mine", graph, before)
    graph.call_function(torch.relu, (x,))
    with pytest.raises(ExtensionError, match="pass 'mine' put a call without a reference"):
        require_references("mine", graph, before)
    require_references("mine", graph, targets_of(graph))


@pytest.mark.parametrize(
    ("schema", "reference", "facts", "problem"),
    [
        ("swiglu(Tensor x) -> Tensor", print, FACTS, "another op has this name"),
        ("changes_it(Tensor(a!) x) -> Tensor", print, FACTS, "the schema mutates an operand"),
        ("has_no_reference(Tensor x) -> Tensor", None, FACTS, "is no function"),
        ("has_no_facts(Tensor x) -> Tensor", print, None, "the facts are None"),
        ("has_others(Tensor y) -> Tensor", print, FACTS, "facts of 'x', which is no operand"),
        ("gives_two(Tensor x) -> (Tensor, Tensor)", print, FACTS, "each of 2 results is joined"),
    ],
)
def test_an_op_is_registered_whole_or_not_at_all(
    schema: str, reference: object, facts: object, problem: str
) -> None:
    known = dict(OPS)
    with pytest.raises(ExtensionError, match="can't be registered") as caught:
        define(schema, Numerics.BITWISE, reference, print, facts)  # type: ignore[arg-type]
    assert problem in caught.value.found
    assert known == OPS


def test_a_pass_of_glmc_is_a_pass() -> None:
    assert PassExtension(clean.PASS).name == "clean"

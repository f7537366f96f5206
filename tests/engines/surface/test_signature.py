"""Signatures as text, what they refuse, and how they changed."""

from __future__ import annotations

import ast

import pytest

from glmc_engines.surface.signature import Signature


def signature(parameters: str) -> Signature:
    node = ast.parse(f"def f({parameters}): ...").body[0]
    assert isinstance(node, ast.FunctionDef)
    return Signature.of(node.args, bound=False)


@pytest.mark.parametrize(
    "text", ["a, b=1", "a, /, b, *, c=None, **rest", "*args, c", "a, /", "a, *args, b, c=2"]
)
def test_text_is_as_it_was_written(text: str) -> None:
    assert str(signature(text)) == f"({text})"


@pytest.mark.parametrize(
    ("parameters", "passed", "reason"),
    [
        ("a, b=1", ["a"], ""),
        ("a, b=1, *args, **rest", ["a", "c"], ""),
        ("a, b", ["a"], "requires b"),
        ("a, *, b", ["a"], "requires b"),
        ("a", ["a", "c"], "does not take c"),
        ("a", ["c"], "does not take c and requires a"),
    ],
)
def test_a_call_is_refused(parameters: str, passed: list[str], reason: str) -> None:
    assert signature(parameters).refuses(passed) == reason


def test_a_definition_of_ours_has_the_same_parameters() -> None:
    assert signature("a, b=1").differs(["a", "b"]) == ""
    assert signature("a, b=1, c=2").differs(["a", "b"]) == "has the parameters (a, b=1, c=2)"
    assert signature("b, a").differs(["a", "b"])


@pytest.mark.parametrize(
    ("older", "newer", "changed"),
    [
        ("a, b=1", "a, b=1", ""),
        ("a, b", "a, c=2", "+c=2, -b"),
        ("a, b=1", "a, b=2", "b=1 -> b=2"),
        ("a, b", "a, *, b", "b -> keyword-only b"),
        ("a, b", "b, a", "order a, b -> b, a"),
    ],
)
def test_what_changed(older: str, newer: str, changed: str) -> None:
    assert signature(newer).changed(signature(older)) == changed

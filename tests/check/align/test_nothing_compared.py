"""Sides without a value in common are refused, with what each has."""

from __future__ import annotations

import pytest
import torch

from glmc.check.align.compare import align
from glmc.check.align.nothing_compared import require_values
from glmc.errors import UsageError
from tests.check.align.memory_record import MemoryRecord


def record(label: str, model: str, *modules: str, width: int = 8) -> MemoryRecord:
    made = MemoryRecord(label, {"tool": "glmc", "model": model, "dtype": "float32"})
    for module in modules:
        made.add(f"{module}.Linear.0.forward_output.0", torch.ones(2, width))
    return made


def refusal(*sides: MemoryRecord, layer: int | None = None, asked: str = "") -> UsageError:
    def wanted(module: str, found: int | None) -> bool:
        return layer is None or found == layer

    a, b = sides
    with pytest.raises(UsageError, match="nothing was compared") as caught:
        require_values(align(a, b, wanted=wanted), (a, b), wanted, asked)
    return caught.value


def test_models_of_other_widths_are_named_with_a_shape_of_each() -> None:
    a = record("a.h5", "small", "model.layers.0.mlp", "model.layers.1.mlp")
    b = record("b.h5", "large", "model.layers.0.mlp", width=16)
    error = refusal(a, b)
    assert error.place == "a.h5, b.h5" and error.exit_status == 2
    assert "A: small, layers 0-1; modules model.layers.*.mlp" in error.expected
    assert "B: large, layers 0; modules model.layers.*.mlp" in error.expected
    assert "2 tensors of A and 1 tensor of B" in error.found
    assert "model.layers.0.mlp.Linear.0.forward_output.0 is [2, 8] in A and [2, 16]" in error.found
    assert "--like" in error.remedy


def test_layers_that_no_side_has_are_said_with_those_that_are_there() -> None:
    modules = [f"model.layers.{layer}.mlp" for layer in (0, 1, 3)]
    a, b = record("a.h5", "one", *modules), record("b.h5", "one", *modules)
    error = refusal(a, b, layer=9, asked="--layers 9")
    assert "A: one, layers 0-1, 3" in error.expected and "modules" not in error.expected
    assert error.found.startswith("--layers 9")
    assert error.remedy.startswith("leave out --layers 9")


def test_a_record_without_a_name_and_layers() -> None:
    a, b = record("a.h5", "", "norm"), record("b.h5", "", "norm", width=4)
    assert "A: a model that is not named, layers none; modules norm" in refusal(a, b).expected


def test_what_was_compared_is_let_through() -> None:
    a = record("a.h5", "one", "model.layers.0.mlp")
    require_values(align(a, a), (a, a), lambda module, layer: True, "")

"""Products of float32 do not follow the program's switch for TF32, and leave it as it was."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from typing import Any

import pytest
import torch

from glmc_runtime.kernels.cuda.linear import linear
from glmc_runtime.kernels.cuda.linear import no_tf32 as module
from glmc_runtime.kernels.cuda.linear.no_tf32 import exact_float32
from glmc_runtime.kernels.cuda.moe import router as moe_gate
from tests.runtime.kernels.harness import nan, random

SWITCHES = torch.backends.cuda.matmul
NEWER = hasattr(SWITCHES, "fp32_precision")  # since torch 2.9


def _state() -> list[object]:
    """What each switch says, those included that refuse to answer."""
    found: list[object] = []
    reads: list[Callable[[], object]] = [
        lambda: SWITCHES.allow_tf32,
        torch.get_float32_matmul_precision,
    ]
    if NEWER:
        reads += [
            lambda: SWITCHES.fp32_precision,
            lambda: torch.backends.mkldnn.matmul.fp32_precision,
            lambda: torch.backends.fp32_precision,
        ]
    for read in reads:
        try:
            found.append(read())
        except RuntimeError:
            found.append("refused")
    return found


def _older(precision: str) -> None:
    torch.set_float32_matmul_precision(precision)


def _allowed() -> None:
    SWITCHES.allow_tf32 = True


def _newer(*places: Any) -> None:
    for place in places:
        place.fp32_precision = "tf32"


def _mixed() -> None:
    _older("high")
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"


CHOICES: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "high": lambda: _older("high"),
    "medium": lambda: _older("medium"),
    "allow_tf32": _allowed,
}
if NEWER:
    CHOICES |= {
        "newer": lambda: _newer(SWITCHES),
        "newer, of all backends": lambda: _newer(torch.backends),
        "both, of other backends": _mixed,
    }


def _check(choice: str) -> None:
    CHOICES[choice]()
    before = _state()
    with exact_float32():
        assert SWITCHES.allow_tf32 is False  # raises where the two names disagree
    assert _state() == before
    with contextlib.suppress(ZeroDivisionError), exact_float32():
        raise ZeroDivisionError
    assert _state() == before
    if choice == "newer, of all backends":
        torch.backends.fp32_precision = "ieee"
        assert SWITCHES.fp32_precision == "ieee"  # still that of all


@pytest.mark.parametrize("choice", CHOICES)
def test_every_switch_is_off_inside_and_as_before_behind(choice: str) -> None:
    """In a process of its own: what was switched once can't be had back as it began."""
    child = multiprocessing.get_context("fork").Process(target=_check, args=(choice,))
    child.start()
    child.join(60)
    assert child.exitcode == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_linear_layer_of_the_library(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = []
    monkeypatch.setattr(linear, "exact", lambda thunk: wrapped.append(thunk) or thunk)
    x, weight = random(3, 8, dtype=dtype), random(6, 8, dtype=dtype)
    given = {"x": x, "weight": weight, "out": nan(3, 6, dtype=dtype)}
    linear.linear({**given, "configuration": {"variant": "cublas"}})
    assert len(wrapped) == (dtype == torch.float32)


def test_the_router_of_the_library() -> None:
    assert moe_gate.exact is module.exact

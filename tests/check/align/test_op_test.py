"""A test of one op, written for what alignment has found: it fails until that is mended."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import glmc_runtime
from glmc.check.align.expectation import Expectation
from glmc.check.align.inlined import inlined
from glmc.check.align.op_test import LARGEST, op_test, op_test_of
from glmc.check.align.own import own_errors
from glmc.check.align.rebuilt import Rebuilt
from glmc.check.bisect.inputs import Input, Recorded, drawn_like
from glmc.compiled import Compiled
from glmc.compiler import back_end
from glmc.errors import UsageError
from glmc.ir.ops import OPS
from glmc.ir.ops.collectives import is_collective
from glmc.job import Job
from tests.check.align.aligned import (
    SHIPPED,
    Aligner,
    Front,
    captured_model,
    new_front,
    prompts,
    rebuilt_of,
)
from tests.check.align.faults import FAULTS, eps_outside_everywhere
from tests.sabotage import PLAN_SABOTAGES, sabotaged, with_wrong_constant

pytestmark = pytest.mark.usefixtures("shared_captures")
LONG = ("xpu/P-A", "bfloat16")
Edit = Callable[[Compiled], Compiled]


@cache
def aligner() -> Aligner:
    return Aligner(SHIPPED / "tiny-moe")


def written(
    place: str,
    dtype: str,
    edit: Edit = lambda compiled: compiled,
    front: Callable[[Job], Front] | None = None,
    reference: Callable[[Rebuilt], Expectation] | None = None,
) -> str:
    """The test of the first value whose calls are wrong."""
    job = aligner().job(place, dtype)
    captured, made = (front or aligner().front)(job)
    with rebuilt_of(captured, made, edit(back_end(made, job))) as rebuilt:
        expected = None if reference is None else reference(rebuilt)
        row = own_errors(rebuilt, prompts(job), expected).first
        assert row is not None
        return op_test(rebuilt, prompts(job), row, expected)


def trouble(text: str) -> str:
    """What the test finds, in this process."""
    assert "import glmc." not in text and "from glmc." not in text
    scope: dict[str, Any] = {"__name__": __name__}
    exec(compile(text, "op_test", "exec"), scope)
    found: str = scope["trouble"]()
    return found


@pytest.mark.parametrize("place", [pytest.param("cpu", marks=pytest.mark.long), "xpu/P-A"])
def test_a_wrong_kernel_fails_its_test_until_it_is_mended(place: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        eps_outside_everywhere(patch)
        text = written(place, "bfloat16")
        assert "its errors lean to one side" in trouble(text)
    assert trouble(text) == ""
    assert "WEIGHT = drawn(" in text and len(text) < 20_000  # numbers of a seed show it too
    assert "def rms_norm(x: Tensor, weight: Tensor, eps: float)" in text


@pytest.mark.long
def test_the_file_fails_by_itself(tmp_path: Path) -> None:
    """With the runtime and without the compiler; the constant is mended by hand."""
    text = written("xpu/P-A", "bfloat16", lambda each: with_wrong_constant(each, "plan_norm_eps"))
    assert "eps=1.0000000000000002e-06" in text
    mended = text.replace("eps=1.0000000000000002e-06", "eps=1e-05")
    for name, each in (("wrong", text), ("mended", mended)):
        (tmp_path / f"test_{name}.py").write_text(each, encoding="utf-8")
    (tmp_path / "glmc.py").write_text("raise ImportError('the compiler')\n")
    runtime = Path(glmc_runtime.__file__).parents[1]
    options = ("-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path))
    outcome = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{runtime}", "PATH": "/usr/bin:/bin"},
    )
    assert re.search(r"1 failed, 1 passed", outcome.stdout), outcome.stdout + outcome.stderr
    assert "its errors lean to one side" in outcome.stdout
    assert "test_wrong.py::test_rms_norm" in outcome.stdout


@pytest.mark.parametrize(
    ("place", "name", "dtype"),
    [
        pytest.param(
            place,
            name,
            dtype,
            marks=pytest.mark.long if (place, dtype) == LONG else pytest.mark.slow,
        )
        for place in ("cpu", "xpu/P-A")
        for name in PLAN_SABOTAGES[place.partition("/")[0]]
        for dtype in ("float32", "bfloat16")
    ],
)
def test_each_wrong_constant_of_a_plan_fails_its_test(place: str, name: str, dtype: str) -> None:
    text = written(place, dtype, lambda each: with_wrong_constant(each, name))
    assert trouble(text) and len(text) < LARGEST


@pytest.mark.parametrize(
    ("place", "dtype"),
    [
        pytest.param("cpu", "bfloat16", marks=pytest.mark.slow),
        pytest.param("xpu/P-A", "bfloat16", marks=pytest.mark.long),
        pytest.param("xpu/P-B", "float16", marks=pytest.mark.slow),
        pytest.param("xpu/P-C", "float32", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_wrong_with_a_right_op_on_any_numbers(place: str, dtype: str) -> None:
    """What is drawn for the calls is drawn for the reference, however packed it is."""
    job = aligner().job(place, dtype)
    captured, made = aligner().front(job)
    with rebuilt_of(captured, made, back_end(made, job)) as rebuilt:
        alignment = own_errors(rebuilt, prompts(job))
        kinds = {(row.op, row.phase, row.module[-9:]): row for row in reversed(alignment.values)}
        assert len(kinds) > 20
        for row in kinds.values():
            test = op_test_of(rebuilt, prompts(job), row)
            values, shared = test.values(), test.shared()
            inputs: dict[str, Input] = {
                name: (drawn_like(value) if name in shared else None) or Recorded(value)
                for name, value in values.items()
            }
            text = test.text(inputs)
            assert trouble(text) == "" and len(text) < 40_000, row.node
            assert "drawn((" in text.partition("What is read")[2], row.node


@pytest.mark.long
def test_what_a_pass_has_made_wrong_is_shown_by_what_was_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sabotaged("wrong_qkv_order", (0,)).install(monkeypatch)
    text = written("cpu", "float32", front=new_front, reference=captured_model)
    assert "is allowed" in trouble(text) and "drawn((" not in text.partition("What is read")[2]


def test_a_weight_that_is_not_the_model_s_is_no_fault_of_the_op(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FAULTS["weight_rows_swapped"].install(monkeypatch)
    with pytest.raises(UsageError, match=r"o_proj\.weight' is not the model's"):
        written("cpu", "bfloat16")


@pytest.mark.parametrize("name", [each for each in OPS if not is_collective(each)])
def test_a_reference_runs_without_the_compiler(name: str) -> None:
    head = "from __future__ import annotations\nimport math\nimport torch\n"
    head += "import torch.nn.functional as F\nfrom dataclasses import dataclass\n"
    scope: dict[str, Any] = {"__name__": __name__}
    exec(head + inlined(OPS[name].reference), scope)
    copy = scope[OPS[name].reference.__name__]
    assert copy is not OPS[name].reference and callable(copy)
    if name == "rms_norm":
        x, weight = torch.randn(3, 8), torch.randn(8)
        assert torch.equal(copy(x, weight, 1e-5), OPS[name].reference(x, weight, 1e-5))

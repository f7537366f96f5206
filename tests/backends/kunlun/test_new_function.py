"""A vendor function that is new to us is one row and the emulator's numbers; the rest reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glmc.backends.kunlun.emit import vendor
from glmc.errors import AbiError
from glmc.lowering.target import Value
from glmc_kunlun_emulator import GuardError, UnmodelledError, contract, load
from glmc_runtime.errors import PlanError, VendorError
from glmc_runtime.format.plan import Call
from glmc_runtime.kernels import vendor_functions
from glmc_runtime.kernels.allowed import allowed_kernels
from glmc_runtime.kernels.schema import number, tensor, written
from glmc_runtime.kernels.vendor_functions.row import (
    P_A,
    P_C,
    VendorFunction,
    keywords,
    optional,
    unused,
)
from glmc_runtime.loading.loader import load_artifact
from glmc_runtime.replay.guard_steps import run_guarded
from tests.backends.kunlun.harness import Bench, Counts, options, tokens_by
from tests.runtime.toy import write_toy

ROW = VendorFunction(
    "scale_rows",
    keywords(
        tensor("x", "rows width"),
        optional(written("y", "rows width", like="x"), spelling=((P_C, "target"),)),
        optional(number("factor"), 1.0),
        *unused(bias=None),
    ),
    profiles=(P_A, P_C),
    source=("a test",),
)
SPELLINGS = pytest.mark.parametrize(("profile", "output"), [(P_A, "y"), (P_C, "target")])


@pytest.fixture(autouse=True)
def _one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def scale_rows(x: torch.Tensor, y: torch.Tensor, factor: float) -> None:
        y.copy_(x * factor)

    monkeypatch.setitem(vendor_functions._ROWS, ROW.name, ROW)
    monkeypatch.setitem(contract.KERNELS, ROW.name, contract.Kernel(scale_rows, None))


def emitted(profile: str) -> tuple[Bench, Value]:
    at = Bench(options(profile), Counts(3, 1), Counts(3, 1))
    x = at.tensor("x", torch.arange(24.0).view(3, 8), tokens_by(8))
    y = at.temporary("y", tokens_by(8), torch.float32)
    vendor(at, "scale_rows", x=x, y=y, factor=2.0)
    return at, y


@SPELLINGS
def test_a_rule_emits_it_in_the_spelling_of_the_profile_and_it_runs(
    profile: str, output: str
) -> None:
    at, y = emitted(profile)
    [call] = at.calls
    assert call.function == "kunlun_ops.scale_rows" and not call.host
    assert call.writes == (output,) and set(call.arguments) == {"x", output, "factor"}
    assert at.run() == {"kunlun_ops.scale_rows": 1}
    assert torch.equal(at.read(y), torch.arange(24.0).view(3, 8) * 2)


def test_a_profile_without_it_refuses_it_everywhere(tmp_path: Path) -> None:
    with pytest.raises(AbiError, match=r"P-B is not known to have kunlun_ops\.scale_rows"):
        emitted("P-B")
    assert not hasattr(load("P-B").kunlun_ops, "scale_rows")
    manifest = load_artifact(write_toy(tmp_path / "toy")).manifest
    with pytest.raises(PlanError, match="no vendor function"):
        allowed_kernels(replace(manifest, target="xpu", abi_profile="P-B"))(ROW.qualified, "")


@SPELLINGS
def test_an_artifact_may_name_it_with_what_the_row_passes(
    tmp_path: Path, profile: str, output: str
) -> None:
    manifest = load_artifact(write_toy(tmp_path / "toy")).manifest
    find = allowed_kernels(replace(manifest, target="xpu", abi_profile=profile))
    schema = find(ROW.qualified, "")
    assert set(schema.by_name) == {"x", output, "factor"}
    assert [name for name, argument in schema.by_name.items() if argument.writes] == [output]


@SPELLINGS
def test_a_guard_step_finds_its_output_unwritten(profile: str, output: str) -> None:
    x, y = torch.ones(2, 4), torch.ones(2, 4)
    call = Call(ROW.qualified, {}, (output,), False, "node", "op", None, "m")
    run_guarded(call, {"x": x, output: y}, lambda: y.copy_(x))
    with pytest.raises(VendorError, match=f"left its output '{output}' unwritten"):
        run_guarded(call, {"x": x, output: y}, lambda: None)
    assert bool(x.eq(1).all()) and bool(y.isnan().all())


@SPELLINGS
def test_the_emulator_checks_poisons_and_counts_it(profile: str, output: str) -> None:
    face = load(profile)
    function = face.kunlun_ops.scale_rows
    x, y = torch.ones(2, 4), torch.ones(2, 4)
    function(x, **{output: y})
    assert torch.equal(x, y) and face.calls == {"scale_rows": 1}
    with pytest.raises(GuardError, match="overlaps x"):
        function(x, x)
    with pytest.raises(ValueError, match="contiguous"):
        function(x.t(), y)
    with pytest.raises(UnmodelledError, match="bias"):
        function(x, y, bias=x)
    assert bool(y.isnan().all()), "poisoned before the kernel would have run"
    with pytest.raises(TypeError, match="scale_rows"):
        function(x, out=y)

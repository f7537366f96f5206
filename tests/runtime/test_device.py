"""Which device an artifact is put on, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import glmc_runtime
from glmc_runtime.cli import main
from glmc_runtime.doctor import examine
from glmc_runtime.errors import GuardError, VendorError
from glmc_runtime.format.manifest import Guards
from glmc_runtime.kernels.vendor import Vendor
from glmc_runtime.loading.guards import device_for
from glmc_runtime.replay.graph import CpuList, graphs_for
from tests.runtime.broken_vendor import break_function
from tests.runtime.toy_vendor import write_vendor_toy

pytest.importorskip("glmc_kunlun_emulator")

GUARDS = Guards("0.1.0", "2.5", "xpu")
WHEEL = Vendor({"kunlun_ops": SimpleNamespace()}, False, None, "a test's library")
EMULATOR = replace(WHEEL, emulated=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vendor_toy(tmp_path_factory.mktemp("device") / "toy")


@pytest.fixture
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("target", "vendor", "name", "chosen"),
    [
        ("xpu", EMULATOR, None, "cpu"),
        ("xpu", EMULATOR, "cpu", "cpu"),
        ("xpu", EMULATOR, "cuda", "cuda"),
        ("xpu", WHEEL, None, "cuda"),
        ("xpu", WHEEL, "cuda", "cuda"),
        ("cuda", None, None, "cuda"),
        ("cuda", None, "cuda", "cuda"),
        ("cpu", None, None, "cpu"),
        ("cpu", None, "cpu", "cpu"),
    ],
)
def test_the_device_that_is_chosen(
    monkeypatch: pytest.MonkeyPatch, target: str, vendor: Vendor | None, name: str, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_for(replace(GUARDS, target=target), vendor, name).type == chosen


@pytest.mark.parametrize(
    ("target", "vendor", "name"),
    [("xpu", WHEEL, "cpu"), ("cuda", None, "cpu"), ("cpu", None, "cuda")],
)
def test_only_an_emulated_artifact_can_be_moved(
    monkeypatch: pytest.MonkeyPatch, target: str, vendor: Vendor | None, name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(GuardError, match="can't be put on another device") as caught:
        device_for(replace(GUARDS, target=target), vendor, name)
    assert caught.value.found == name
    assert "compile for the other target" in caught.value.remedy


@pytest.mark.parametrize("name", ["tpu", "cuda:0", "mps", "meta", "CUDA", ""])
def test_unknown_devices(path: Path, name: str) -> None:
    with pytest.raises(GuardError, match="no such device") as caught:
        glmc_runtime.load(path, emulate=True, device=name)
    assert caught.value.expected == "cpu or cuda"
    assert "CUDA_VISIBLE_DEVICES" in caught.value.remedy


def test_cuda_that_is_not_there(
    path: Path, without_cuda: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for function in (glmc_runtime.load, examine):
        with pytest.raises(GuardError, match="'cuda' was asked for") as caught:
            function(path, emulate=True, device="cuda")
        assert "emulator also runs in host memory" in caught.value.remedy
    run = ["run", str(path), "--emulate", "--token-ids", "1", "--device", "cuda"]
    assert main(run) == 2
    assert "[GLMC-2002]" in capsys.readouterr().err
    assert main(["doctor", str(path), "--emulate", "--device", "cuda"]) == 2


def test_host_memory_may_be_named(path: Path) -> None:
    session = glmc_runtime.load(path, emulate=True, device="cpu")
    assert (session.device.type, session.emulated) == ("cpu", True)
    run = ["--emulate", "--device", "cpu"]
    assert main(["run", str(path), "--token-ids", "1", "--max-new-tokens", "2", *run]) == 0


def test_an_emulated_artifact_is_never_captured() -> None:
    for device in ("cpu", "cuda"):
        graphs = graphs_for(torch.device(device), True)
        assert isinstance(graphs, CpuList)
        assert not graphs.on_device


def test_time_on_a_cuda_device_is_taken_after_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    graphs_for(torch.device("cpu"), True).wait()
    assert waited == []
    graphs_for(torch.device("cuda"), True).wait()
    assert waited == [torch.device("cuda")]


def test_the_emulator_makes_tensors_on_the_device_of_its_arguments(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it made on the default device would meet the arguments there, and fail."""

    def elsewhere(function: Callable[..., Any], arguments: dict[str, Any]) -> object:
        with torch.device("meta"):
            return function(**arguments)

    right = glmc_runtime.load(path, emulate=True)
    for name in right.manifest.guards.vendor_functions:
        break_function(monkeypatch, name.partition(".")[2], elsewhere)
    moved = glmc_runtime.load(path, emulate=True)
    prompts = [[3, 14, 15], list(range(30)), [7]]
    results = [
        [completion.tokens for completion in session.generate(prompts, max_new_tokens=4)]
        for session in (right, moved)
    ]
    assert results[0] == results[1]

    def careless(**arguments: torch.Tensor) -> torch.Tensor:
        return arguments["x"] + torch.ones(1)

    break_function(monkeypatch, "swiglu", lambda _, arguments: elsewhere(careless, arguments))
    careless_session = glmc_runtime.load(path, emulate=True)
    with pytest.raises(VendorError, match="swiglu"):
        careless_session.prefill([careless_session.sequence([1])])

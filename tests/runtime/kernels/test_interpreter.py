"""Artifacts for cuda without a GPU: what is missing, or Triton's interpreter, never silently."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import glmc_runtime
from glmc_runtime.cli import main
from glmc_runtime.doctor import examine
from glmc_runtime.errors import GuardError
from glmc_runtime.format.manifest import Guards
from glmc_runtime.kernels.interpreter import (
    check_triton,
    interpreting,
    is_interpreted,
    say_interpreted,
)
from glmc_runtime.loading.guards import device_for
from glmc_runtime.replay.graph import CpuList, graphs_for
from tests.runtime.toy import reference_greedy, write_toy

GUARDS = Guards("0.1.0", "2.5", "cuda")
RUN = ["--token-ids", "3,14,15", "--ignore-eos", "--max-new-tokens", "3"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("interpreter") / "toy"
    return write_toy(root, greedy=True, target="cuda", guards=GUARDS)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make this machine one with or without GPU, Triton, and the variable of the interpreter."""
    find_spec = importlib.util.find_spec

    def choose(gpu: bool, triton: bool = True, variable: str | None = None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        if variable is not None:
            monkeypatch.setenv("TRITON_INTERPRET", variable)

        def find(name: str, *more: Any) -> Any:
            if name == "triton":
                return object() if triton else None
            return find_spec(name, *more)

        monkeypatch.setattr(importlib.util, "find_spec", find)

    return choose


def test_the_interpreter_runs_in_host_memory(machine: Callable[..., None]) -> None:
    machine(gpu=False, variable="1")
    assert interpreting()
    for name in (None, "cpu"):
        device = device_for(GUARDS, None, name)
        assert device == torch.device("cpu")
        assert is_interpreted("cuda", device)
        assert isinstance(graphs_for(device, False), CpuList)
    assert not is_interpreted("cpu", torch.device("cpu"))
    with pytest.raises(GuardError, match="'cuda' was asked for, but torch sees no such device"):
        device_for(GUARDS, None, "cuda")


@pytest.mark.parametrize("variable", [None, "0", ""])
@pytest.mark.parametrize("triton", [False, True])
@pytest.mark.parametrize("name", [None, "cpu", "cuda"])
def test_what_is_missing_is_said(
    machine: Callable[..., None], variable: str | None, triton: bool, name: str | None
) -> None:
    machine(gpu=False, triton=triton, variable=variable)
    assert not interpreting()
    with pytest.raises(GuardError, match="torch sees no such device") as caught:
        device_for(GUARDS, None, name)
    assert "a CUDA device" in caught.value.found
    assert ("kernels/cuda needs triton >= 3.2" in caught.value.found) is not triton
    assert "TRITON_INTERPRET=1" in caught.value.remedy
    assert "--target cpu" in caught.value.remedy


def test_a_gpu_is_never_passed_over(machine: Callable[..., None]) -> None:
    machine(gpu=True, variable="1")
    assert not interpreting()
    assert device_for(GUARDS, None).type == "cuda"
    with pytest.raises(GuardError, match="can't be put on another device"):
        device_for(GUARDS, None, "cpu")


def test_kernels_that_can_not_run_are_refused_before_they_are_imported(
    machine: Callable[..., None],
) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    machine(gpu=True, triton=False)
    check_triton({"aten.copy"}, cuda)
    with pytest.raises(GuardError, match="not installed") as caught:
        check_triton({"aten.copy", "cuda.linear"}, cuda)
    assert "triton>=3.2" in caught.value.remedy
    machine(gpu=True, variable="1")
    with pytest.raises(GuardError, match="interpreter on, but torch sees a CUDA device") as caught:
        check_triton({"cuda.linear"}, cuda)
    assert "unset TRITON_INTERPRET" in caught.value.remedy
    machine(gpu=True)
    check_triton({"cuda.linear"}, cuda)
    machine(gpu=False, variable="1")
    check_triton({"cuda.linear"}, cpu)


def test_an_interpreted_run_says_so(
    path: Path,
    tmp_path: Path,
    machine: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine(gpu=False, variable="1")
    say_interpreted.cache_clear()
    session = glmc_runtime.load(path)
    assert (session.interpreted, session.emulated, session.device.type) == (True, False, "cpu")
    assert session.statistics.to_json()["interpreted"] is True
    assert session.statistics.summary().startswith("interpreted: no GPU was used")
    assert "interpreted: no GPU was used" in capsys.readouterr().err
    assert main(["run", str(path), *RUN]) == 0
    captured = capsys.readouterr()
    tokens = " ".join(map(str, reference_greedy([3, 14, 15], 3)))
    assert captured.out == f"{tokens} \n"
    assert "s (interpreted)" in captured.err
    timeline = tmp_path / "timeline.json"
    assert main(["run", str(path), *RUN, "--json", "--timeline", str(timeline)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["interpreted"], result["statistics"]["interpreted"]) == (True, True)
    recorded = json.loads(timeline.read_text())
    assert (recorded["glmc"]["interpreted"], recorded["glmc"]["emulated"]) == (True, False)
    lanes = {event["args"].get("name") for event in recorded["traceEvents"] if event["ph"] == "M"}
    assert "device 0 (cuda, interpreted)" in lanes


def test_without_gpu_and_interpreter_nothing_runs(
    path: Path, machine: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    machine(gpu=False)
    for function in (glmc_runtime.load, examine):
        with pytest.raises(GuardError, match="for cuda, but torch sees no such device"):
            function(path)
    assert main(["run", str(path), *RUN]) == 2
    assert "[GLMC-2002]" in capsys.readouterr().err


def test_others_are_not_interpreted(toy_path: Path, machine: Callable[..., None]) -> None:
    machine(gpu=False, variable="1")
    session = glmc_runtime.load(toy_path)
    assert not session.interpreted
    assert session.statistics.to_json()["interpreted"] is False
    assert "interpreted" not in session.statistics.summary()

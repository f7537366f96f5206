"""Programmatic dependent launch is used only on a device that has it, and can be switched off."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from glmc_runtime.kernels.cuda import launch as module
from glmc_runtime.kernels.cuda.launch import launch, multiprocessors, pdl_enabled

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


class Recorder:
    """Stands for a kernel: remembers how it was launched."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args, **meta: self.calls.append((grid, args, meta))


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLMC_CUDA_PDL", raising=False)
    monkeypatch.setattr(module, "interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


@pytest.mark.parametrize("interpreted", [False, True])
@pytest.mark.parametrize("pdl", [False, True])
def test_the_kernel_is_told_what_it_gets(
    interpreted: bool, pdl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "interpreted", lambda: interpreted)
    kernel = Recorder()
    launch(kernel, (2, 3), 1, "x", pdl=pdl, BLOCK=4)
    [(grid, args, meta)] = kernel.calls
    assert grid == (2, 3) and args == (1, "x") and meta["BLOCK"] == 4
    given = pdl and not interpreted
    assert meta["PDL"] is given and meta.get("launch_pdl", False) is given


def test_hopper_launches_with_pdl_unless_switched_off(
    hopper: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pdl_enabled(GPU)
    assert not pdl_enabled(CPU)
    monkeypatch.setenv("GLMC_CUDA_PDL", "0")
    assert not pdl_enabled(GPU)


def test_no_pdl_on_older_devices_or_interpreted(
    hopper: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    assert not pdl_enabled(GPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(module, "interpreted", lambda: True)
    assert not pdl_enabled(GPU)


def test_the_suite_interprets_where_no_device_is() -> None:
    assert module.interpreted() is not torch.cuda.is_available()
    assert multiprocessors(CPU) == 3


class Compiled:
    """What Triton gives for a launch, with the grids and arguments that it is launched with."""

    def __init__(self, constants_too: bool) -> None:
        kinds = {
            "x": "*fp32",
            **({"SIZE": "constexpr", "PDL": "constexpr"} if constants_too else {}),
        }
        self.src = SimpleNamespace(signature=kinds)
        self.launched: list[tuple[object, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments: self.launched.append((grid, *arguments))


class Kernel:
    arg_names = ("x", "SIZE", "PDL")

    def __init__(self, compiled: object) -> None:
        self.compiled, self.launched = compiled, 0

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
        def run(*arguments: object, **meta: object) -> object:
            self.launched += 1
            return self.compiled

        return run


def test_a_repeated_launch_compiles_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_compiled", {})
    compiled = Compiled(constants_too=True)
    kernel = Kernel(compiled)
    repeated = module.RepeatedLaunch(kernel, pdl=False, SIZE=16, num_warps=4)
    for x in ("a", "b", "c"):
        repeated((2, 1, 1), x)
    assert kernel.launched == 1
    assert compiled.launched == [((2, 1, 1), "b", 16, False), ((2, 1, 1), "c", 16, False)]
    # Another one shares it, but not for other constants or other kinds of arguments.
    module.RepeatedLaunch(kernel, pdl=False, SIZE=16, num_warps=4)((3, 1, 1), "d")
    assert kernel.launched == 1 and compiled.launched[-1] == ((3, 1, 1), "d", 16, False)
    memory = torch.zeros(8)
    others: list[tuple[int, object]] = [(32, "d"), (16, 1), (16, memory), (16, memory[1:])]
    for number, (size, x) in enumerate(others):
        module.RepeatedLaunch(kernel, pdl=False, SIZE=size, num_warps=4)((1, 1, 1), x)
        assert kernel.launched == 2 + number


@pytest.mark.parametrize("compiled", [None, Compiled(constants_too=False)])
def test_what_older_triton_and_the_interpreter_give_is_launched_as_before(compiled: object) -> None:
    kernel = Kernel(compiled)
    repeated = module.RepeatedLaunch(kernel, pdl=False, SIZE=16)
    for _ in range(3):
        repeated((1, 1, 1), "a")
    assert kernel.launched == 3

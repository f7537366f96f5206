"""Launch of a kernel: on the device or interpreted, with or without PDL.

PDL is programmatic dependent launch: a kernel may begin while the one before it still runs, to
load weights, and waits (``gdc_wait``) before it reads or writes anything that others touch. A
kernel that is launched so must wait in every program, or the order of the chain is lost.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
import triton
import triton.language as tl

PDL = False  # what a binder assumes where nobody asks the device


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter: decided when Triton was imported."""
    return not isinstance(_probe, triton.runtime.JITFunction)


@triton.jit
def _probe():
    pass


@functools.cache
def _supports_pdl(capability: tuple[int, int]) -> bool:
    cuda = getattr(getattr(tl, "extra", None), "cuda", None)
    return capability >= (9, 0) and hasattr(cuda, "gdc_wait")


def pdl_enabled(device: torch.device) -> bool:
    """Whether kernels on ``device`` launch with PDL: from Hopper on, unless GLMC_CUDA_PDL=0."""
    if device.type != "cuda" or interpreted() or os.environ.get("GLMC_CUDA_PDL") == "0":
        return PDL
    return _supports_pdl(torch.cuda.get_device_capability(device))


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """How many multiprocessors ``device`` has; under the interpreter a small number that differs
    from every block size."""
    if device.type != "cuda":
        return 3
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a program may have on ``device``; where nothing says so, those of
    a Hopper card."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return int(getattr(properties, "shared_memory_per_block_optin", _HOPPER_SHARED))
    return _HOPPER_SHARED


_HOPPER_SHARED = 227 << 10


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, pdl: bool, **meta: Any) -> Any:
    """Run ``kernel`` over ``grid``. It takes ``PDL`` as a constant; ``meta`` holds its other
    keyword arguments, num_warps and num_stages among them. Returns what Triton has compiled."""
    if pdl and not interpreted():
        return kernel[grid](*args, PDL=True, launch_pdl=True, **meta)
    return kernel[grid](*args, PDL=False, **meta)


class RepeatedLaunch:
    """A kernel that is launched from the host again and again, with the same constants.

    Triton looks at each argument of each launch, for what it would compile anew; that costs the
    host. Here the first launch compiles, and later ones go to what it gave: their
    arguments must have its types, and tensors its alignment, of 16 bytes or less. Launches of the
    same kernel with the same constants share what was compiled.
    """

    def __init__(self, kernel: Any, *, pdl: bool, **meta: Any) -> None:
        self._kernel, self._pdl, self._meta = kernel, pdl, meta
        self._compiled: Any = None
        self._constants: tuple[Any, ...] = ()

    def __call__(self, grid: tuple[int, int, int], *args: Any) -> None:
        if self._compiled is None and not self._find(grid, args):
            return
        self._compiled[grid](*args, *self._constants)

    def _find(self, grid: tuple[int, int, int], args: tuple[Any, ...]) -> bool:
        """Look for what was compiled; where it was not, launch as Triton does."""
        kinds = tuple(_kind(each) for each in args)
        key = (self._kernel, self._pdl, tuple(sorted(self._meta.items())), kinds)
        found = _compiled.get(key)
        if found is not None:
            self._compiled, self._constants = found
            return True
        compiled = launch(self._kernel, grid, *args, pdl=self._pdl, **self._meta)
        # Since Triton 3.3 what is compiled takes constants in their places, too. Before that, and
        # in the interpreter, each launch is as the first.
        signature = getattr(getattr(compiled, "src", None), "signature", {})
        if "constexpr" in signature.values():
            given = {**self._meta, "PDL": self._pdl}
            constants = tuple(given[name] for name in self._kernel.arg_names[len(args) :])
            self._compiled, self._constants = _compiled[key] = (compiled, constants)
        return False


_compiled: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}


def _kind(argument: Any) -> tuple[Any, ...]:
    """What Triton may compile anew for; integers of such launches are never specialised."""
    if isinstance(argument, torch.Tensor):
        return (argument.dtype, argument.device, argument.data_ptr() % 16 == 0)
    return (type(argument),)

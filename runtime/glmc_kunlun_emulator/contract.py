"""How an emulated vendor call is made from a row of the table: checked, poisoned and counted.

Names, order and defaults of the keywords, what is written, what may share memory and what is on
the host are the row's (:mod:`glmc_runtime.kernels.vendor_functions`). `emulates` adds the numbers:
a plain function of the keywords that it models, under our names of them. What is checked before
each call, always (the wheel fails too):

* every tensor is contiguous and of a dtype on the platform's list;
* arguments that are read on the host are there, all others on one device;
* keywords that are not modelled have their defaults.

and in guard mode (the wheel would stay silent):

* no output overlaps an input, except in the pairs the record documents as in-place;
* outputs are filled with NaN (floats), -1 (int32, int64) or -128 (int8) before the kernel runs.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from glmc_runtime.kernels.vendor_functions.row import (
    NAMESPACE,
    Arguments,
    VendorFunction,
)

from .errors import GuardError, UnmodelledError, VendorCheckError

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
PLATFORM_DTYPES = (*FLOATS, torch.int8, torch.int32, torch.int64, torch.uint8, torch.bool)


@dataclass(frozen=True)
class Kernel:
    """The numbers of one function. `guard` makes the checks that only guard mode has."""

    function: Callable[..., None]
    guard: Callable[[Arguments], None] | None

    @property
    def modelled(self) -> tuple[str, ...]:
        """The keywords that it takes. One that not all profiles have has a default here."""
        return tuple(inspect.signature(self.function).parameters)


KERNELS: dict[str, Kernel] = {}


def emulates(
    name: str, *, guard: Callable[[Arguments], None] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register the kernel of the row `name`."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        KERNELS[name] = Kernel(function, guard)
        return function

    return register


def bind(
    row: VendorFunction,
    profile: str,
    calls: Counter[str],
    guarded: Callable[[], bool],
    run: Callable[..., None] = lambda function, arguments: function(**arguments),
) -> Callable[..., None]:
    """Make the callable of one face, with the signature that the row has in its profile. ``run``
    calls the kernel with the keywords that it models."""
    kernel, variant = KERNELS[row.name], row.variants[profile]
    signature = variant.signature
    names = tuple(keyword.name for keyword in variant.keywords)
    unmodelled = {
        keyword.name: keyword.default
        for keyword in variant.keywords
        if keyword.name not in kernel.modelled
    }

    def call(*args: Any, **kwargs: Any) -> None:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{row.name}() {error}") from None
        bound.apply_defaults()
        arguments = dict(zip(names, bound.arguments.values(), strict=True))
        calls[row.name] += 1
        tensors = [pair for pair in arguments.items() if isinstance(pair[1], torch.Tensor)]
        _check_tensors(row, tensors)
        if guarded():
            _check_overlap(row, tensors)
            if kernel.guard is not None:
                kernel.guard(arguments)
            if row.partly_written is None or not row.partly_written(arguments):
                _poison_outputs(row, tensors)
        for name, default in unmodelled.items():
            refuse_unmodelled(row.name, **{name: (arguments.pop(name), default)})
        run(kernel.function, arguments)

    call.__name__ = call.__qualname__ = row.name
    call.__module__, call.__doc__ = NAMESPACE, kernel.function.__doc__
    call.__dict__["__signature__"] = signature
    return call


def _check_tensors(row: VendorFunction, tensors: list[tuple[str, torch.Tensor]]) -> None:
    device: torch.device | None = None
    for name, tensor in tensors:
        place = f"{row.name}({name}=)"
        if not tensor.is_contiguous():
            raise VendorCheckError(
                place,
                expected="a contiguous tensor",
                found=f"shape {tuple(tensor.shape)}, strides {tensor.stride()}",
                remedy="copy it with .contiguous(); the vendor kernels do not read strides",
            )
        if tensor.dtype not in PLATFORM_DTYPES:
            raise VendorCheckError(
                place, expected="fp32, fp16, bf16, int8 or an index type", found=str(tensor.dtype)
            )
        if name in row.host:
            if tensor.device.type != "cpu":
                raise VendorCheckError(
                    place, expected="a host tensor", found=f"device {tensor.device}"
                )
        elif device is None:
            device = tensor.device
        elif tensor.device != device:
            raise VendorCheckError(
                place, expected=f"device {device}, as the others", found=f"device {tensor.device}"
            )


def _range(tensor: torch.Tensor) -> tuple[int, int]:
    start = tensor.data_ptr()
    return start, start + tensor.numel() * tensor.element_size()


def _check_overlap(row: VendorFunction, tensors: list[tuple[str, torch.Tensor]]) -> None:
    for index, (name, tensor) in enumerate(tensors):
        if name not in row.written or tensor.numel() == 0:
            continue
        start, stop = _range(tensor)
        for other_index, (other_name, other) in enumerate(tensors):
            if other_index == index or other.numel() == 0:
                continue
            other_start, other_stop = _range(other)
            if other_start >= stop or start >= other_stop:
                continue
            same = (start, stop) == (other_start, other_stop)
            pairs = ((name, other_name), (other_name, name))
            if same and any(pair in row.aliases for pair in pairs):
                continue
            raise GuardError(
                f"{row.name}({name}=)",
                expected="memory of its own" if same else "the whole of one buffer or none of it",
                found=f"overlaps {other_name} ({'same' if same else 'partly the same'} bytes)",
                remedy="only the documented in-place pairs are safe: "
                + (", ".join(f"{a} is {b}" for a, b in sorted(row.aliases)) or "none here"),
            )


def poison(tensor: torch.Tensor) -> None:
    """Fill a buffer with a value no kernel leaves behind."""
    if tensor.dtype in FLOATS:
        tensor.fill_(float("nan"))
    elif tensor.dtype == torch.int8:
        tensor.fill_(-128)
    elif tensor.dtype in (torch.int32, torch.int64):
        tensor.fill_(-1)


def _poison_outputs(row: VendorFunction, tensors: list[tuple[str, torch.Tensor]]) -> None:
    outputs = {keyword.name for keyword in row.keywords if keyword.is_output}
    read = [_range(tensor) for name, tensor in tensors if name not in outputs]
    for name, tensor in tensors:
        if name in outputs and _range(tensor) not in read:
            poison(tensor)


def require(condition: bool, place: str, expected: str, found: object, remedy: str = "") -> None:
    """Raise the vendor's failure unless `condition` holds."""
    if not condition:
        raise VendorCheckError(place, expected=expected, found=str(found), remedy=remedy)


def require_shape(place: str, name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Raise the vendor's failure unless `tensor` has exactly this shape."""
    require(
        tuple(tensor.shape) == shape, f"{place}({name}=)", f"shape {shape}", tuple(tensor.shape)
    )


def require_dtype(place: str, name: str, tensor: torch.Tensor, *dtypes: torch.dtype) -> None:
    """Raise the vendor's failure unless `tensor` has one of these dtypes."""
    require(
        tensor.dtype in dtypes,
        f"{place}({name}=)",
        " or ".join(str(dtype) for dtype in dtypes),
        tensor.dtype,
    )


def require_guard(condition: bool, place: str, expected: str, found: object, remedy: str) -> None:
    """Raise the guard's failure unless `condition` holds."""
    if not condition:
        raise GuardError(place, expected=expected, found=str(found), remedy=remedy)


def refuse_unmodelled(place: str, **arguments: tuple[Any, Any]) -> None:
    """Refuse arguments whose meaning is not public: each is given as (value, modelled value)."""
    for name, (value, modelled) in arguments.items():
        if value is not modelled and value != modelled:
            raise UnmodelledError(
                f"{place}({name}=)",
                expected=repr(modelled),
                found=repr(value) if not isinstance(value, torch.Tensor) else "a tensor",
                remedy="what the hardware does with it is not public",
            )

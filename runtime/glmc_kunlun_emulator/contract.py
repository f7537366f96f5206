"""How an emulated vendor call is described, checked, poisoned and counted.

A kernel is a plain function with the vendor's explicit signature, decorated by `vendor_op`. `bind`
wraps it for one loaded face. What is checked before each call, always (the wheel fails too):

* every tensor is contiguous and of a dtype on the platform's list;
* arguments named `*_cpu` lie on the host, all others on one device.

and in guard mode (the wheel would stay silent):

* no output overlaps an input, except in the pairs the record documents as in-place;
* outputs are filled with NaN (floats), -1 (int32, int64) or -128 (int8) before the kernel runs.
"""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .errors import GuardError, UnmodelledError, VendorCheckError

ALL_PROFILES = ("P-A", "P-B", "P-C")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
PLATFORM_DTYPES = (*FLOATS, torch.int8, torch.int32, torch.int64, torch.uint8, torch.bool)

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class VendorOperation:
    """One function of the vendor's, with what its buffers mean.

    `outputs` are written and never read; `in_place` are read and written (never poisoned);
    `aliases` lists (output, input) pairs that may be the very same memory; `keeps_output` says for
    given arguments that the outputs are read or only partly written, so poison would be wrong;
    `guard` makes the checks that only guard mode has.
    """

    name: str
    function: Callable[..., Any]
    profiles: tuple[str, ...]
    outputs: tuple[str, ...]
    in_place: tuple[str, ...]
    aliases: frozenset[tuple[str, str]]
    keeps_output: Callable[[Arguments], bool] | None
    guard: Callable[[Arguments], None] | None


REGISTRY: list[VendorOperation] = []


def vendor_op(
    name: str,
    *,
    profiles: tuple[str, ...] = ALL_PROFILES,
    outputs: tuple[str, ...] = (),
    in_place: tuple[str, ...] = (),
    aliases: tuple[tuple[str, str], ...] = (),
    keeps_output: Callable[[Arguments], bool] | None = None,
    guard: Callable[[Arguments], None] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a kernel under the vendor's name for the given profiles."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        REGISTRY.append(
            VendorOperation(
                name=name,
                function=function,
                profiles=profiles,
                outputs=outputs,
                in_place=in_place,
                aliases=frozenset(aliases),
                keeps_output=keeps_output,
                guard=guard,
            )
        )
        return function

    return register


def bind(
    operation: VendorOperation, calls: Counter[str], guard: Callable[[], bool]
) -> Callable[..., Any]:
    """Make the callable of one face; `inspect.signature` sees the kernel's own signature."""
    signature = inspect.signature(operation.function)

    @functools.wraps(operation.function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{operation.name}() {error}") from None
        bound.apply_defaults()
        calls[operation.name] += 1
        tensors = list(_tensors(bound.arguments))
        _check_tensors(operation, tensors)
        if guard():
            _check_overlap(operation, tensors)
            if operation.guard is not None:
                operation.guard(bound.arguments)
            if operation.keeps_output is None or not operation.keeps_output(bound.arguments):
                _poison_outputs(operation, tensors)
        return operation.function(*bound.args, **bound.kwargs)

    call.__name__ = call.__qualname__ = operation.name
    call.__module__ = "kunlun_ops"
    return call


def _tensors(arguments: Arguments) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, (list, tuple)):
            yield from ((name, item) for item in value if isinstance(item, torch.Tensor))


def _check_tensors(operation: VendorOperation, tensors: list[tuple[str, torch.Tensor]]) -> None:
    device: torch.device | None = None
    for name, tensor in tensors:
        place = f"{operation.name}({name}=)"
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
        if name.endswith("_cpu"):
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


def _check_overlap(operation: VendorOperation, tensors: list[tuple[str, torch.Tensor]]) -> None:
    written = set(operation.outputs) | set(operation.in_place)
    for index, (name, tensor) in enumerate(tensors):
        if name not in written or tensor.numel() == 0:
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
            if same and any(pair in operation.aliases for pair in pairs):
                continue
            raise GuardError(
                f"{operation.name}({name}=)",
                expected="memory of its own" if same else "the whole of one buffer or none of it",
                found=f"overlaps {other_name} ({'same' if same else 'partly the same'} bytes)",
                remedy="only the documented in-place pairs are safe: "
                + (", ".join(f"{a} is {b}" for a, b in sorted(operation.aliases)) or "none here"),
            )


def poison(tensor: torch.Tensor) -> None:
    """Fill a buffer with a value no kernel leaves behind."""
    if tensor.dtype in FLOATS:
        tensor.fill_(float("nan"))
    elif tensor.dtype == torch.int8:
        tensor.fill_(-128)
    elif tensor.dtype in (torch.int32, torch.int64):
        tensor.fill_(-1)


def _poison_outputs(operation: VendorOperation, tensors: list[tuple[str, torch.Tensor]]) -> None:
    read = [_range(tensor) for name, tensor in tensors if name not in operation.outputs]
    for name, tensor in tensors:
        if name in operation.outputs and _range(tensor) not in read:
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

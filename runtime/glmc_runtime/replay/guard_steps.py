"""Guard steps: in the first steps of a phase, look at what each vendor call returns and leaves.

Some vendor wrappers ignore the kernel's return code, or hand it on without raising, and leave what
was in the output before. Neither shows in a replay, which looks at nothing. So in a guard step

* an int other than 0 that a vendor call returns is an error, and
* outputs that the call writes and does not read are poisoned before it, with a NaN of a rare bit
  pattern or with -1 for indices, and no poison may be left behind it.

Only what is certain is poisoned, so that a correct library raises no alarm:

* never what is read as well as written: q and k of ``rotary_embedding``, the caches, histograms,
  expert counts and prefix sums, which add to zeros; nor an output over the memory of an input;
* of attention, the real rows only, where the plan passes those (what happens to padded rows is
  not public); other kernels take rows as they come and write all rows of the bucket;
* nothing that foreign experts (id -1) leave unwritten, nor with a fused activation, which fills
  half of the columns;
* no int8 output, where each bit pattern is a number.

So a kernel in place that does nothing is not found here; ``glmc-runtime doctor`` finds it.
"""

from __future__ import annotations

from typing import Any

import torch

from glmc_runtime.errors import VendorError
from glmc_runtime.format.plan import BufferArgument, Call, place_of
from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.vendor_functions import vendor_function

Arguments = dict[str, Any]

# Quiet NaNs that no arithmetic makes: a kernel's own NaN is not taken for poison.
_POISON: dict[torch.dtype, tuple[torch.dtype, int]] = {
    torch.float32: (torch.int32, 0x7FD5A5A5),
    torch.float16: (torch.int16, 0x7E5A),
    torch.bfloat16: (torch.int16, 0x7FDA),
    torch.int32: (torch.int32, -1),
    torch.int64: (torch.int64, -1),
}


def run_guarded(call: Call, arguments: Arguments, thunk: Thunk) -> None:
    """Run a vendor call that is bound to ``arguments``; raises :class:`VendorError`."""
    poisoned = {name: _poison(arguments[name]) for name in _pure_outputs(call, arguments)}
    check_return(call, thunk())
    for name, (bits, poison) in poisoned.items():
        left = int((bits == poison).sum())
        if left:
            raise VendorError(
                f"a vendor call left its output '{name}' unwritten, wholly or in part",
                place=place_of(call),
                expected=f"{bits.numel()} elements written",
                found=f"{left} still hold what was put there before the call",
            )


def check_return(call: Call, result: object) -> None:
    """Raise :class:`VendorError` for a return code other than 0.

    Anything but an int is no return code; a functional call may return tensors.
    """
    if isinstance(result, int) and not isinstance(result, bool) and result != 0:
        raise VendorError(
            "a vendor call returned an error code",
            place=place_of(call),
            expected="0 or None",
            found=str(result),
        )


def _pure_outputs(call: Call, arguments: Arguments) -> list[str]:
    row = vendor_function(call.function)
    if row is None:
        return []
    names = [
        name
        for name in call.writes
        if name in row.outputs and arguments[name].dtype in _POISON and arguments[name].numel()
    ]
    spans = {
        name: _span(value) for name, value in arguments.items() if isinstance(value, torch.Tensor)
    }
    names = [
        name
        for name in names
        if not any(other != name and _overlap(spans[name], span) for other, span in spans.items())
    ]
    if not names or (row.partly_written is not None and row.partly_written(arguments)):
        return []
    return names if not row.real_rows or all(_real(call, name) for name in names) else []


def _real(call: Call, name: str) -> bool:
    """Whether a call gets the real rows of a buffer, without the padded ones."""
    argument = call.arguments[name]
    return isinstance(argument, BufferArgument) and argument.real


def _poison(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Fill an output; returns its bits as integers and the value that they hold now."""
    integers, poison = _POISON[tensor.dtype]
    bits = tensor.view(integers)
    bits.fill_(poison)
    return bits, poison


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """First and last byte (excluded); bound tensors are contiguous. Host and device addresses
    never meet."""
    start = tensor.data_ptr()
    return start, start + tensor.numel() * tensor.element_size()


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]

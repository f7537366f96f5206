"""Small helpers of the rules: vendor calls through the table, zeroed and cast values."""

from __future__ import annotations

from dataclasses import replace
from typing import Union

import torch

from glmc.backends.kunlun.abi import abi_profile
from glmc.errors import LoweringError
from glmc.lowering.target import Emitter, Value
from glmc_runtime.format.extent import Shape
from glmc_runtime.format.plan import Argument, BufferArgument, InputArgument, WeightArgument

Passed = Union[Value, Argument, float, int, bool, str, list[int], None]


def vendor(emit: Emitter, name: str, **arguments: Passed) -> None:
    """Emit ``kunlun_ops.<name>`` in the spelling of the chosen profile.

    What the call writes and whether it reads host memory is taken from the table. Raises AbiError
    when the profile lacks the function or a keyword.
    """
    profile = abi_profile(emit.options.abi_profile)
    function = profile.function(name)
    spelled = profile.resolve(name, arguments)
    given = {key: value for key, value in arguments.items() if value is not None}
    emit.call(
        function.qualified,
        writes=tuple(spelled[key] for key in function.written if key in given),
        host=any(key in given for key in function.host),
        **{spelled[key]: value for key, value in arguments.items()},
    )


def real(value: Value) -> Argument:
    """The part of a value that is no padding, seen with the value's own shape."""
    argument = value.argument
    if isinstance(argument, (BufferArgument, InputArgument)):
        return replace(argument, shape=value.shape, real=True)
    raise LoweringError(
        f"{value.name} has no real part", expected="a buffer or an input", found=repr(argument)
    )


def zeroed(emit: Emitter, name: str, shape: Shape, dtype: torch.dtype) -> Value:
    """A temporary that is zeroed in each step, inside the captured graph."""
    value = emit.temporary(name, shape, dtype)
    emit.call("aten.zero", writes=("out",), out=value)
    return value


def cast(emit: Emitter, value: Value, dtype: torch.dtype) -> Value:
    """``value`` itself or a copy in another dtype."""
    if value.dtype == dtype:
        return value
    out = emit.temporary(f"{value.name}_{str(dtype).removeprefix('torch.')}", value.shape, dtype)
    emit.call("aten.copy", writes=("out",), source=value, out=out)
    return out


def cast_weight(emit: Emitter, value: Value, dtype: torch.dtype) -> Value:
    """A weight, or rows of one, packed once more in another dtype from the checkpoint's own."""
    if value.dtype == dtype:
        return value
    weight = emit.recipe(value)
    suffix = str(dtype).removeprefix("torch.")
    whole = emit.weight(replace(weight, name=f"{weight.name}.{suffix}", dtype=dtype))
    if isinstance(whole.argument, WeightArgument) and isinstance(value.argument, WeightArgument):
        part = replace(whole.argument, rows=value.argument.rows)
        return replace(whole, shape=value.shape, argument=part)
    return whole

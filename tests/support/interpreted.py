"""Triton's interpreter without what it does again and again: two thirds of an interpreted launch.

It patches ``triton.language`` anew at each call of a device function, and all but the first of a
launch change nothing; it asks for the overflow of an integer op by six more ops of the language;
and it writes down its table of dtypes each time that it looks one up.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch


@contextmanager
def quick_interpreter() -> Iterator[None]:
    """Kernels are interpreted on the machine without a GPU alone."""
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            _patched_once(patch)
            _overflow_by_numpy(patch)
            _dtypes_by_name(patch)
        yield


def stored(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float32 ``values`` as a kernel stores them in ``dtype``: the interpreter cuts float32 to
    bfloat16 where a GPU rounds."""
    from glmc_runtime.kernels.cuda.launch import interpreted

    if dtype == torch.bfloat16 and interpreted():
        return (values.view(torch.int32) >> 16).to(torch.int16).view(dtype)
    return values.to(dtype)


def _patched_once(patch: pytest.MonkeyPatch) -> None:
    """Patch each module of the language once in a launch, not at each call within it."""
    from triton.runtime import interpreter

    original = interpreter._patch_lang
    seen: set[str] = set()

    def languages(function: Any) -> set[str]:
        modules = filter(inspect.ismodule, function.__globals__.values())
        names = {module.__name__ for module in modules}
        return names & {"triton.language", "triton.language.core"}

    def launch(executor: Any, *arguments: Any, **constants: Any) -> Any:
        seen.clear()
        return run(executor, *arguments, **constants)

    def patch_new(function: Any) -> Any:
        names = languages(function)
        if names and names <= seen:
            return interpreter._LangPatchScope()
        seen.update(names)
        return original(function)

    run = interpreter.GridExecutor.__call__
    patch.setattr(interpreter.GridExecutor, "__call__", launch)
    patch.setattr(interpreter, "_patch_lang", patch_new)


def _overflow_by_numpy(patch: pytest.MonkeyPatch) -> None:
    """The same condition on the same numbers, which Triton computes and, without its debug option,
    does not look at."""
    import numpy as np
    from triton.language.semantic import TritonSemantic

    wide: dict[str, Callable[..., Any]] = {"add": np.add, "sub": np.subtract, "mul": np.multiply}

    def require_no_overflow(semantic: Any, left: Any, right: Any, op: Any) -> None:
        dtype = left.type.scalar
        if dtype.int_bitwidth >= 64 or not semantic.builder.options.sanitize_overflow:
            return
        operands = (each.handle.data.astype(np.int64) for each in (left, right))
        result = wide[op.__name__](*operands)
        low, high = dtype.get_int_min_value(), dtype.get_int_max_value()
        assert ((low <= result) & (result <= high)).all(), f"{dtype} overflow in {op.__name__}"

    patch.setattr(TritonSemantic, "binary_op_sanitize_overflow_impl", require_no_overflow)


def _dtypes_by_name(patch: pytest.MonkeyPatch) -> None:
    from triton.runtime import interpreter

    look_up = interpreter._get_np_dtype
    table: dict[str, Any] = {}

    def dtype_of(dtype: Any) -> Any:
        name = str(dtype.scalar)
        if name not in table:
            table[name] = look_up(dtype.scalar)
        return table[name]

    patch.setattr(interpreter, "_get_np_dtype", dtype_of)

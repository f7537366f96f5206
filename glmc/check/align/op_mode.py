"""What is computed between modules: the functions of torch that the model's code calls.

They are seen as Python calls them, so ``softmax`` is one op and not what it is made of. Views and
what only passes a tensor on compute nothing and are left out; so is memory that is not yet filled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch._C import _functorch
from torch.overrides import TorchFunctionMode

from glmc_runtime.record.module_tensors import tensors_in

# Names that operators have in ATen; the others are those of the method without underscores.
_OPERATORS = {"truediv": "div", "floordiv": "floor_divide", "invert": "bitwise_not"}
_REFLECTED = {"radd": "add", "rmul": "mul", "rtruediv": "div", "rmatmul": "matmul"}
_NOTHING = frozenset(
    ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "get", "set")
)

Write = Callable[[str, Mapping[str, Tensor]], None]


class OpMode(TorchFunctionMode):
    """Calls ``write`` with an op's name and the tensors that it computed, by their places."""

    def __init__(self, write: Write) -> None:
        super().__init__()
        self._write = write

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        result = func(*args, **given)
        name = op_name(func)
        if name and name not in _NOTHING:
            computed = dict(_computed(name, (args, given), result))
            if computed:
                self._write(name, computed)
        return result


def op_name(function: Any) -> str:
    """The name of an op as ATen has it; '' of what has none."""
    name = str(getattr(function, "__name__", ""))
    if name.startswith("__") and name.endswith("__"):
        name = name.strip("_")
        if name[:1] == "i" and name[1:] in ("add", "sub", "mul", "truediv", "and", "or", "xor"):
            return f"{_OPERATORS.get(name[1:], name[1:])}_"
        name = _REFLECTED.get(name, _OPERATORS.get(name, name))
    return name if name.isidentifier() else ""


def _computed(name: str, operands: Any, result: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a result in memory of their own, or written in place."""
    inputs = [tensor for _, tensor in tensors_in(operands)]
    outputs = dict(tensors_in(result))
    # Inside vmap, which makes masks, a tensor has no memory of its own.
    if any(map(_functorch.is_functorch_wrapped_tensor, (*inputs, *outputs.values()))):
        return
    memory = {tensor.untyped_storage()._cdata for tensor in inputs}
    for place, tensor in outputs.items():
        if name.endswith("_") or tensor.untyped_storage()._cdata not in memory:
            yield place, tensor

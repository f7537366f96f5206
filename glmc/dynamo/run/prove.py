"""``verify``: the first call of each graph is compared with Dynamo's own module, run as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from glmc.errors import VerificationError

_LOG = logging.getLogger("glmc.verify")
# Of the largest value: the kernels sum in another order than eager code, layer upon layer.
_LIMITS = {torch.float32: 1e-3, torch.bfloat16: 1e-1, torch.float16: 2e-2, torch.float64: 1e-9}


class Verified:
    """A replay whose first call is proved. Raises VerificationError at the first output, or
    changed input, that is further off than its dtype allows, and logs when none is."""

    def __init__(
        self,
        replay: Callable[..., list[Any]],
        eager: Callable[..., Any],
        names: Sequence[str],
        calls: int,
    ) -> None:
        self._replay, self._eager, self._names, self._calls = replay, eager, names, calls
        self.proved = False

    def __call__(self, *arguments: Any) -> list[Any]:
        if self.proved:
            return self._replay(*arguments)
        twins = [_twin(item) for item in arguments]
        with torch.no_grad():
            expected = list(self._eager(*twins))
        outputs = self._replay(*arguments)
        worst = 0.0
        for index, (one, other) in enumerate(zip(expected, outputs, strict=True)):
            worst = max(worst, _compare(f"output {index}", one, other))
        for name, one, other in zip(self._names, twins, arguments, strict=True):
            worst = max(worst, _compare(f"input {name}, as it is afterwards", one, other))
        self.proved = True
        _LOG.info(
            "a graph of %d calls is right: %d outputs and %d inputs, off by at most %.1e of the "
            "largest value",
            *(self._calls, len(outputs), len(arguments), worst),
        )
        return outputs


def _twin(item: Any) -> Any:
    """A copy with the same strides; parameters are not written and stay as they are."""
    if not isinstance(item, Tensor) or isinstance(item, torch.nn.Parameter):
        return item
    twin = torch.empty_strided(item.shape, item.stride(), dtype=item.dtype, device=item.device)
    return twin.copy_(item)


def _compare(place: str, expected: Any, outputs: Any) -> float:
    """How far off, of the largest value."""
    if not isinstance(expected, Tensor):
        if expected != outputs:
            raise _wrong(place, str(expected), str(outputs))
        return 0.0
    if expected.shape != outputs.shape or expected.dtype != outputs.dtype:
        raise _wrong(
            place,
            f"{expected.dtype} {list(expected.shape)}",
            f"{outputs.dtype} {list(outputs.shape)}",
        )
    limit = _LIMITS.get(expected.dtype)
    if limit is None:
        if not torch.equal(expected, outputs):
            raise _wrong(place, "equal values", f"{int((expected != outputs).sum())} others")
        return 0.0
    if expected.numel() == 0:
        return 0.0
    largest = expected.nan_to_num(0, 0, 0).abs().max().item()
    off = (expected - outputs).nan_to_num(0, 0, 0).abs().max().item()
    share = float(off / max(largest, 1e-30))
    if share > limit or not torch.equal(expected.isnan(), outputs.isnan()):
        raise _wrong(place, f"at most {limit:g} of the largest value", f"{share:.2g} of it")
    return share


def _wrong(place: str, expected: str, actual: str) -> VerificationError:
    return VerificationError(
        "the replay computes something else than the graph that it was made of",
        place=place,
        expected=expected,
        found=actual,
    )

"""Any ATen op by its full name, in the form that writes into given memory where there is one.

A plan falls back to it op by op where no kernel of ours took a node. ``glmc::`` ops, where the
compiler is loaded and has defined them, are found the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk, register_traced


@cache
def aten(name: str) -> Any:
    """The overload ``namespace.op.overload``; raises :class:`PlanError` when torch has none."""
    namespace, _, rest = name.partition(".")
    packet, _, overload = rest.partition(".")
    try:
        return getattr(getattr(getattr(torch.ops, namespace), packet), overload)
    except (AttributeError, RuntimeError) as error:
        raise PlanError(f"torch {torch.__version__} has no op '{name}'") from error


@cache
def _writing_form(name: str) -> tuple[Any, tuple[str, ...]] | None:
    """The overload that takes the same arguments and its results as well, and their names."""
    own = aten(name)._schema
    namespace, packet, _ = name.split(".")
    candidates = getattr(getattr(torch.ops, namespace), packet)
    wanted = [(argument.name, str(argument.type)) for argument in own.arguments]
    for overload in candidates.overloads():
        candidate = getattr(candidates, overload)
        arguments = candidate._schema.arguments
        outs = [item.name for item in arguments if getattr(item, "is_out", False)]
        inputs = [(item.name, str(item.type)) for item in arguments if item.name not in outs]
        if outs and len(outs) == len(own.returns) and inputs == wanted:
            return candidate, tuple(outs)
    return None


@register_traced("aten.any")
def any_op(arguments: dict[str, Any]) -> Thunk:
    """Run ``op`` on ``operands`` and ``keywords``; its results land in ``results``, in order.

    ``operands`` and ``keywords`` hold tensors and constants, lists of them included.
    """
    name, results = str(arguments["op"]), list(arguments["results"])
    names = list(arguments["keyword_names"])
    operands, values = list(arguments["operands"]), list(arguments["keyword_values"])
    if torch.Tag.nondeterministic_seeded not in aten(name).tags:  # each device draws its own
        operands, values = _where(results, operands), _where(results, values)
    keywords = dict(zip(names, values, strict=True))
    if keywords.get("pin_memory"):
        keywords["pin_memory"] = False  # memory is given
    form = _writing_form(name)
    # A factory's dtype and device say what the given memory already says.
    unsaid = {key for key in keywords if key in ("dtype", "layout", "device", "pin_memory")}
    if form is None or unsaid or _elsewhere([*operands, *values], results):
        return _copied(partial(aten(name), *operands, **keywords), results)
    writing, outs = form
    return partial(writing, *operands, **keywords, **dict(zip(outs, results, strict=True)))


def _where(results: list[torch.Tensor], items: Any) -> list[Any]:
    """``items`` with the device of the results for any other: the values of a plan are on its
    device, wherever the program puts them. What torch computed in host memory in between would be
    frozen in a device graph."""
    return [results[0].device if isinstance(item, torch.device) else item for item in items]


def _elsewhere(operands: list[Any], results: list[torch.Tensor]) -> bool:
    """Whether all operands are scalars of the CPU and the results are on a device: torch computes
    on the CPU then, and writes to no other memory."""
    tensors = [item for item in operands if isinstance(item, torch.Tensor)]
    on_cpu = bool(tensors) and all(item.device.type == "cpu" for item in tensors)
    return on_cpu and any(item.device.type != "cpu" for item in results)


def _copied(compute: Callable[[], Any], results: list[torch.Tensor]) -> Thunk:
    if len(results) == 1:
        (only,) = results

        def run_one() -> None:
            only.copy_(compute())

        return run_one

    def run() -> None:
        for target, value in zip(results, compute(), strict=True):
            target.copy_(value)

    return run


@register_traced("aten.any_in_place")
def any_in_place(arguments: dict[str, Any]) -> Thunk:
    """Run ``op``, an op that changes its first operand, on ``target`` and ``operands``."""
    names, values = list(arguments["keyword_names"]), list(arguments["keyword_values"])
    keywords = dict(zip(names, values, strict=True))
    operands = (arguments["target"], *arguments["operands"])
    return partial(aten(str(arguments["op"])), *operands, **keywords)

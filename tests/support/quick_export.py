"""What ``run_decompositions`` does alike each time: a sixth of what the trace of a block costs.

It looks through every namespace for composite ops, and gives each of them two dozen kernels that it
takes back afterwards. Here both are done once, and put in and taken out as they are after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch._subclasses import fake_impls
from torch.export import exported_program

_NAMES = ("_collect_all_valid_cia_ops", "_override_composite_implicit_decomp")


def keep_tables(patch: pytest.MonkeyPatch) -> None:
    """Nothing is patched in a torch that has other tables."""
    if all(hasattr(exported_program, name) for name in _NAMES):
        collect, override = (getattr(exported_program, name) for name in _NAMES)
        patch.setattr(exported_program, _NAMES[0], _collected_once(collect))
        patch.setattr(exported_program, _NAMES[1], _overridden_alike(override))


@contextmanager
def without_stack_traces() -> Iterator[None]:
    """Nodes don't say where they come from: below a test's own hundred frames that is a tenth of a
    small trace."""

    class Nothing:
        @classmethod
        def extract(cls, *_: Any, **__: Any) -> Nothing:
            return cls()

        def summary(self) -> None:
            return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.fx.proxy.CapturedTraceback", Nothing, raising=False)
        yield


def _collected_once(collect: Callable[[], set[Any]]) -> Callable[[], set[Any]]:
    """Anew only when an op was registered."""
    sets: dict[tuple[int, int], set[Any]] = {}

    def collected() -> set[Any]:
        registered = torch._C._dispatch_get_registrations_for_dispatch_key
        key = (len(torch.ops._dir), len(registered("CompositeImplicitAutograd")))
        if key not in sets:
            sets[key] = collect()
        return sets[key]

    return collected


def _overridden_alike(override: Callable[[dict[Any, Any]], Any]) -> Callable[[dict[Any, Any]], Any]:
    """The kernels and fake rules of a first time, as long as ops come with the kernels that they
    came with then."""
    first: dict[Any, tuple[Any, dict[Any, Any], dict[Any, Any], Any]] = {}

    @contextmanager
    def overridden(callables: dict[Any, Any]) -> Iterator[None]:
        before = {op: dict(op.py_kernels) for op in callables}
        rules = fake_impls.op_implementations_dict
        known = all(
            op in first and first[op][:2] == (callables[op], before[op]) and op not in rules
            for op in callables
        )
        if not known:
            ruled = {op for op in callables if op in rules}
            with override(callables):
                for op in callables.keys() - ruled:
                    kernels = (before[op], dict(op.py_kernels))
                    first[op] = (callables[op], *kernels, rules.get(op))
                yield
            return
        for op in callables:
            _, _, kernels, rule = first[op]
            _replace(op, kernels)
            rules[op] = rule
        try:
            yield
        finally:
            for op in callables:
                _replace(op, before[op])
                rules.pop(op, None)

    return overridden


def _replace(op: Any, kernels: dict[Any, Any]) -> None:
    op.py_kernels.clear()
    op.py_kernels.update(kernels)
    op._dispatch_cache.clear()

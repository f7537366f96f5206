"""Parameters of which the normal suite runs some: the rest repeats them and is for the slow one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import product
from typing import Any

import pytest


def thinned(cases: Iterable[Any], slow: Collection[Any]) -> list[Any]:
    """The cases as parameters (a tuple is several), those of ``slow`` marked so; a slow one that
    is no case is an error."""
    everything = list(cases)
    _refuse_strange(everything, slow)
    return [_parameter(case, case in slow) for case in everything]


def crossed(*axes: Iterable[Any], quick: Collection[tuple[Any, ...]]) -> list[Any]:
    """Every combination of the axes as parameters, of which the normal suite runs ``quick``; a
    quick one that is no combination is an error."""
    everything = list(product(*axes))
    _refuse_strange(everything, quick)
    return [_parameter(case, case not in quick) for case in everything]


def _refuse_strange(everything: list[Any], named: Collection[Any]) -> None:
    strange = [case for case in named if case not in everything]
    if strange:
        raise ValueError(f"no such cases: {strange}")


def _parameter(case: Any, is_slow: bool) -> Any:
    values = case if type(case) is tuple else (case,)
    return pytest.param(*values, marks=pytest.mark.slow if is_slow else ())

"""Parameters of which the normal suite runs some: the rest repeats them and is for ``make
test-long`` or the slow one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import product
from typing import Any

import pytest


def thinned(
    cases: Iterable[Any], slow: Collection[Any] = (), *, long: Collection[Any] = ()
) -> list[Any]:
    """The cases as parameters (a tuple is several), those of ``slow`` and of ``long`` marked so; a
    marked one that is no case is an error."""
    everything = list(cases)
    _refuse_strange(everything, [*slow, *long])
    return [_parameter(case, case in slow, case in long) for case in everything]


def crossed(
    *axes: Iterable[Any],
    quick: Collection[tuple[Any, ...]],
    long: Collection[tuple[Any, ...]] = (),
) -> list[Any]:
    """Every combination of the axes as parameters, of which the normal suite runs ``quick`` and
    ``make test-long`` runs ``long``; one of them that is no combination is an error."""
    everything = list(product(*axes))
    _refuse_strange(everything, [*quick, *long])
    return [
        _parameter(case, case not in quick and case not in long, case in long)
        for case in everything
    ]


def _refuse_strange(everything: list[Any], named: list[Any]) -> None:
    strange = [case for case in named if case not in everything]
    if strange:
        raise ValueError(f"no such cases: {strange}")


def _parameter(case: Any, is_slow: bool, is_long: bool) -> Any:
    values = case if type(case) is tuple else (case,)
    marks = [pytest.mark.slow] * is_slow + [pytest.mark.long] * is_long
    return pytest.param(*values, marks=marks)

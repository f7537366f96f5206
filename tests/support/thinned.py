"""Parameters of which the normal suite runs some: the rest repeats them and is for the slow one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def thinned(cases: Iterable[Any], slow: Collection[Any]) -> list[Any]:
    """The cases as parameters (a tuple is several), those of ``slow`` marked so; a slow one that
    is no case is an error."""
    found = list(cases)
    strange = [each for each in slow if each not in found]
    if strange:
        raise ValueError(f"no such cases: {strange}")
    return [
        pytest.param(
            *(each if type(each) is tuple else (each,)),
            marks=pytest.mark.slow if each in slow else (),
        )
        for each in found
    ]

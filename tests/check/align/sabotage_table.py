"""``python -m tests.check.align.sabotage_table``: each fault, and what alignment finds of it.

A row for each fault, target and dtype: the first value whose calls are to blame; whether these are
the calls with the fault, and no other is blamed anywhere; its own error, the bound of its numerics
class and by what it was found; and of how many values after it in that step the error is said to be
inherited, of all that are off. Beside the kernels and plans that are broken on purpose are wrong
passes, which the model as captured shows.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from glmc.check.align.result import AlignedValue, Alignment, Verdict
from tests.check.align.aligned import SHIPPED, Aligner, new_front
from tests.check.align.faults import FAULTS
from tests.check.align.test_sabotage import EDITED, NOT_OF_P_B, PASSES, ROUTED_PASSES
from tests.sabotage import PLAN_SABOTAGES, sabotaged, with_wrong_constant

HEAD = (
    "| fault | target | dtype | found at | node right | own error | bound | by "
    "| inherited after it |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
_MEASURES = {
    "is allowed": "bound",
    "root mean square": "size",
    "elements are not": "unlike",
    "lean to one side": "lean",
}
Align = Callable[[], Alignment]
Right = Callable[[AlignedValue], bool]


@dataclass(frozen=True)
class Row:
    """What was found of a fault. ``right``: of a value, whether the fault is in its calls."""

    fault: str
    place: str
    dtype: str
    alignment: Alignment
    right: Right

    def __str__(self) -> str:
        first = self.alignment.first
        cells = [self.fault, self.place, self.dtype]
        if first is None or first.own is None or first.bound is None:
            return f"| {' | '.join(cells)} | nothing | no | | | | |"
        measure = next(name for words, name in _MEASURES.items() if words in first.reason)
        blamed = [each for each in self.alignment.values if each.verdict is Verdict.OWN]
        later = [
            each
            for each in self.alignment.values
            if each.order > first.order and each.step == first.step
            if each.total.largest_absolute > 0 and not self.right(each)
        ]
        inherited = [each for each in later if each.verdict is Verdict.OK and each.inherited]
        cells += [
            f"`{_place(first)}`",
            "yes" if all(map(self.right, blamed)) else "no",
            f"{first.own.largest_absolute:.2g}",
            f"{first.bound:.2g}",
            measure,
            f"{len(inherited)} of {len(later)}",
        ]
        return f"| {' | '.join(cells)} |"


def _place(value: AlignedValue) -> str:
    node = re.sub(r"^model\.layers\.", "", value.node)
    return f"{value.phase}: {node}"


def aligned(
    model: Aligner, place: str, dtype: str, passes: bool
) -> Iterator[tuple[str, Align, Right]]:
    """All faults of a target, each with what aligns a model that has it, and what is right."""
    for name, fault in FAULTS.items():

        def kernel(fault: object = fault) -> Alignment:
            with pytest.MonkeyPatch.context() as patch:
                fault.install(patch)  # type: ignore[attr-defined]
                return model.align(place, dtype)

        yield name, kernel, _at(fault.node)
    for name in PLAN_SABOTAGES[place.partition("/")[0]]:
        if place == "xpu/P-B" and name in NOT_OF_P_B:
            continue

        def plan(name: str = name) -> Alignment:
            return model.align(place, dtype, lambda compiled: with_wrong_constant(compiled, name))

        yield name, plan, _of(EDITED[name])
    for name in PASSES if passes else ():

        def wrong_pass(name: str = name) -> Alignment:
            layer = 2 if sabotaged(name).pass_name in ROUTED_PASSES else 0
            with pytest.MonkeyPatch.context() as patch:
                sabotaged(name, (layer,)).install(patch)
                return model.align(place, dtype, front=new_front)

        yield f"{name} (pass)", wrong_pass, _at(PASSES[name])


def _at(node: str) -> Right:
    return lambda value: value.node.partition("[")[0] == node


def _of(ops: tuple[str, ...]) -> Right:
    return lambda value: value.op in ops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny-moe")
    parser.add_argument("--targets", default="cpu,xpu/P-A", help="such as cpu,xpu/P-C")
    parser.add_argument("--dtypes", default="bfloat16")
    options = parser.parse_args()
    model = Aligner(SHIPPED / options.model)
    print(HEAD)
    for dtype in options.dtypes.split(","):
        for number, place in enumerate(options.targets.split(",")):
            for name, align, right in aligned(model, place, dtype, number == 0):
                print(Row(name, place, dtype, align(), right), flush=True)


if __name__ == "__main__":
    main()

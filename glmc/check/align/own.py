"""Own and inherited error of each value of an artifact, call by call.

Three computations go in lock step. The program that the plan was made of computes what is expected,
E; where a reference has recorded a value, that is expected instead. A *free* replay runs the
artifact as it is, F. A *forced* one is given what is expected after each call, so that whatever its
next calls leave, O, is wrong by their own fault alone:

* total: F - E.
* own: O against the node on expected operands in float32, rounded once.
* inherited: the node on the operands of the free replay, against E; where the reference has another
  value than the program, against the node on expected operands.

Values are dropped as soon as no later call reads them.
"""

from __future__ import annotations

from typing import Any

from glmc.check.align.expectation import Expectation, ItsOwnProgram
from glmc.check.align.other_experts import OtherExperts
from glmc.check.align.rebuilt import Rebuilt, unknown
from glmc.check.align.result import AlignedValue, Alignment
from glmc.check.align.rows import StepRows
from glmc.check.align.run import Sequences, running
from glmc_runtime.engine.options import LoadOptions

WORDS = (
    "own: the calls run on what is expected, within the bound of their numerics class; in bfloat16 "
    "and float16 also about as far off as the reference op in that dtype"
)


def own_errors(
    rebuilt: Rebuilt,
    sequences: Sequences,
    expectation: Expectation | None = None,
    load: LoadOptions | None = None,
) -> Alignment:
    """Align an artifact with what is expected of it. Raises what loading and a kernel raise,
    CapacityError where the prompts do not fit into one step, and UsageError where rounding is not
    that of the target."""
    expectation = expectation or ItsOwnProgram()
    values: list[AlignedValue] = []
    others = OtherExperts()
    with running(rebuilt, sequences, expectation, load) as run:
        manifest, statistics = rebuilt.artifact.manifest, run.loaded.statistics
        if statistics.interpreted and manifest.dtype == "bfloat16":
            raise unknown(
                rebuilt.artifact,
                "Triton's interpreter cuts numbers off to bfloat16, where a GPU rounds them",
                "align it on a GPU, or compile it in float16 or float32",
            )
        for step in run.steps():
            rows = StepRows(step.place, step.lowered, len(values), others, expectation.times)
            for done in step.calls():
                rows.add(done)
            values += rows.values()
    facts: dict[str, Any] = {
        "tool": "glmc",
        "made_by": f"glmc artifact, {manifest.target}",
        "model": manifest.model.name,
        "target": manifest.target,
        "dtype": manifest.dtype,
        "emulated": statistics.emulated,
        "interpreted": statistics.interpreted,
    }
    label = str(rebuilt.artifact.path)
    both = (expectation.facts, facts)
    return Alignment(expectation.label, label, both, tuple(values), ((), ()), (), WORDS)

"""Which ops may exist after a stage, by the table of the pipeline.

Of ``glmc::`` ops only those of the table are judged: what an added pass brings is its own, and what
no pass took stays ATen up to the lowering.
"""

from __future__ import annotations

from collections.abc import Sequence

from glmc.errors import InternalError
from glmc.ir.match import op_name
from glmc.ir.program import Program
from glmc.pipeline.stages import STAGES, Stage

KNOWN = frozenset[str]().union(*(stage.ops for stage in STAGES))


def require_legal(program: Program, ran: Sequence[Stage]) -> None:
    """Raise InternalError for an op that none of the stages that ran may leave; the last of them
    has just ended. There are several where a user's order mixes them."""
    allowed = frozenset[str]().union(*(each.ops for each in ran))
    for node in program.graph.nodes:
        space, _, name = op_name(node).partition(".")
        if space == "glmc" and name in KNOWN - allowed:
            raise InternalError(
                f"the stage '{ran[-1].name}' left an op that may not exist after it",
                place=f"stage {ran[-1].name}, node {node.meta.get('id', node.name)}",
                expected=", ".join(f"glmc.{each}" for each in sorted(allowed)),
                found=op_name(node),
            )

"""The table of collectives of an artifact, and the switches that bring it about on Kunlun.

On a card of Kunlun the library does the work and chooses by variables that it reads when a group
is made; there the table is a statement of what these bring about. Everywhere else it is what runs.
"""

from __future__ import annotations

from collections.abc import Mapping

from glmc.lowering.target import LoweringOptions
from glmc_runtime.format.bkcl import switches_of
from glmc_runtime.format.collectives import (
    COLLECTIVES,
    ONE_HOST,
    AlgorithmTable,
    GroupKey,
    default_table,
    tree_only,
)
from glmc_runtime.format.collectives_json import read_table, table_to_text

SWITCHES = "collectives.env"


def table_of(target: str, options: LoweringOptions, given: str | None) -> AlgorithmTable | None:
    """The table that ranks go by: the ``given`` text, or the target's; None for one rank.

    A deterministic one adds along a tree alone. Raises ArtifactError for a table that is not well
    formed, and PlanError for one that has nothing for the group.
    """
    if options.ranks == 1:
        return None
    if given is None:
        table = default_table(target, options.ranks)
    else:
        table = read_table(given.encode(), "--collectives")
        table.entry(group_of(options))
    return table if options.deterministic is None else tree_only(table)


def group_of(options: LoweringOptions) -> GroupKey:
    """The kind of group that the ranks are."""
    return GroupKey(options.ranks, ONE_HOST, str(options.dtype).removeprefix("torch."))


def collective_files(target: str, options: LoweringOptions, given: str | None) -> dict[str, bytes]:
    """The files of an artifact beside its plans, by name; arguments as of :func:`table_of`."""
    table = table_of(target, options, given)
    if table is None:
        return {}
    files = {COLLECTIVES: table_to_text(table).encode()}
    if target == "xpu":
        switches = switches_of(table.entry(group_of(options)))
        files[SWITCHES] = _switches_text(switches).encode()
    return files


def _switches_text(switches: Mapping[str, str] | None) -> str:
    """Lines that a shell reads."""
    if switches is None:
        return f"# No variables of BKCL are known to bring about {COLLECTIVES}.\n"
    lines = [
        f"# What {COLLECTIVES} says, as far as public scripts tell; set before ranks start.",
        *(f"{name}={value}" for name, value in sorted(switches.items())),
    ]
    return "\n".join(lines) + "\n"

"""Switches of BKCL, the collectives of Kunlun, that bring about what a table of collectives says.

BKCL chooses between a tree and a ring by itself; variables that it reads when a group is made say
from how many bytes on. Their meanings are those of public scripts and of a public tuner, not the
vendor's: no page of the vendor names them.
"""

from __future__ import annotations

from glmc_runtime.format.collectives import TableEntry

TREE_SWITCH = "BKCL_ENABLE_TREE"
THRESHOLD = "BKCL_MULTI_TREE_THRESHOLD"
_TREES = ("butterfly", "halving_doubling")
_ALWAYS = "-1"


def switches_of(entry: TableEntry) -> dict[str, str] | None:
    """The variables for a kind of group, none where BKCL is left to itself; None for bands that no
    variable is known to bring about."""
    names = [band.algorithm for band in entry.bands]
    kinds = ["tree" if name in _TREES else name for name in names]
    if set(kinds) == {"library"}:
        return {}
    if set(kinds) == {"tree"}:
        return {TREE_SWITCH: "1", THRESHOLD: _ALWAYS}
    if set(kinds) == {"ring"}:
        return {TREE_SWITCH: "0"}
    trees = kinds.count("tree")
    if kinds == ["tree"] * trees + ["ring"] * (len(kinds) - trees):
        return {TREE_SWITCH: "1", THRESHOLD: str(entry.bands[trees - 1].below)}
    return None

"""Which files of tests one worker runs: those that share what takes long to make, or each its own.

A worker remembers what it has traced (``captures.py`` and the zoo's caches), so files that trace
the same models are cheaper together. Each group is less than half of a run of two workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

_TINY_FAMILIES = "tests of tiny families"
_CHECKPOINTS = "tests of checkpoints"
_GRID = "tests of the grid"
# The first that a file's name begins with.
_GROUPS = {
    "tests/pipeline/test_stages.py": _CHECKPOINTS,
    "tests/artifact/test_engine_weights.py": _CHECKPOINTS,
    "tests/backends/test_several_ranks.py": _CHECKPOINTS,
    "tests/estimates/test_history_costs.py": _CHECKPOINTS,
    "tests/passes/": _TINY_FAMILIES,
    "tests/lowering/": _TINY_FAMILIES,
    "tests/pipeline/": _TINY_FAMILIES,
    "tests/check/verify/test_regions.py": _TINY_FAMILIES,
    "tests/check/": _CHECKPOINTS,
    "tests/observe/": _CHECKPOINTS,
    "tests/cli/": _CHECKPOINTS,
    "tests/docs/": _CHECKPOINTS,
    "tests/tools/": _CHECKPOINTS,
    "tests/test_job.py": _CHECKPOINTS,
    "tests/e2e/test_same_plan.py": _GRID,
    "tests/e2e/test_same_answers.py": _GRID,
    "tests/e2e/test_low_precision.py": _GRID,
    "tests/e2e/": _CHECKPOINTS,
    "tests/fuzz/": _CHECKPOINTS,
}


def group_of(nodeid: str) -> str:
    """The group of a test's file, or the file."""
    file = nodeid.partition("::")[0]
    groups = (group for start, group in _GROUPS.items() if file.startswith(start))
    return next(groups, file)


def by_group(config: Any, log: Any) -> LoadFileScheduling:
    """pytest-xdist's scheduler of whole files, for whole groups."""
    from xdist.scheduler import LoadFileScheduling

    class GroupScheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return GroupScheduling(config, log)

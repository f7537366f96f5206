"""The probes that run on every rank: what their answers mean."""

from __future__ import annotations

from glmc_runtime.command.rank_processes import Ended, run_ranks
from glmc_runtime.doctor.ranks.facts import ADDRESS_WINDOW, NO_WINDOW_CHECK
from glmc_runtime.doctor.ranks.result import FAIL, PASS, SKIPPED, Result
from glmc_runtime.doctor.ranks.tasks import GLOO

_TASKS = "glmc_runtime.doctor.ranks.tasks"
GROUP = f"{_TASKS}:group"
_SHOWN_LINES = 3


def card(ranks: int, backend: str, limit: float) -> Result:
    """Whether each rank's device finishes a kernel: one may answer queries and never do."""
    ended = run_ranks(f"{_TASKS}:card", ranks, limit, backend=backend)
    wrong = [rank for rank, answer in ended.answers.items() if not answer["right"]]
    if ended.problem:
        return _failed("card", ended)
    if wrong:
        names = ", ".join(map(str, wrong))
        return Result("card", FAIL, (f"a product of ones is wrong on rank {names}",))
    devices = [f"rank {rank}: {answer['name']}" for rank, answer in ended.answers.items()]
    shared = {answer["name"] for answer in ended.answers.values()}
    line = f"all ranks: {min(shared)}" if len(shared) == 1 else "; ".join(devices)
    return Result("card", PASS, (line,), {"devices": dict(ended.answers)})


def group(ranks: int, backend: str, limit: float, task: str = GROUP) -> Result:
    """Whether the ranks form a group that adds rightly."""
    ended = run_ranks(task, ranks, limit, backend=backend, patience=limit)
    if ended.problem:
        return _failed("group", ended)
    wrong = [
        f"rank {rank}: the sum of {count} elements is wrong"
        for rank, answer in ended.answers.items()
        for count, right in answer["sums"].items()
        if not right
    ]
    counts = list(ended.answers[0]["sums"])
    if wrong:
        return Result("group", FAIL, tuple(wrong))
    line = f"formed; all-reduces of {' and '.join(counts)} elements add rightly"
    return Result("group", PASS, (line,), {"elements": list(map(int, counts))})


def window(ranks: int, backend: str, limit: float, formed: Result, task: str = GROUP) -> Result:
    """Whether it is the check of address windows that refuses a group: then the group is tried
    without. ``formed`` is what the probe of the group has found."""
    if backend == GLOO:
        return Result("window", SKIPPED, ("BKCL is not what runs",))
    if formed.verdict == PASS:
        return Result("window", PASS, ("no address window keeps the group from forming",))
    if not any(ADDRESS_WINDOW in line for line in formed.lines):
        return Result("window", SKIPPED, ("the group fails for another reason",))
    setting = " ".join(f"{name}={value}" for name, value in NO_WINDOW_CHECK.items())
    ended = run_ranks(task, ranks, limit, NO_WINDOW_CHECK, backend=backend, patience=limit)
    if ended.problem:
        lines = (f"the group fails with {setting} too: {ended.problem}", *_indented(ended))
    else:
        lines = (
            f"the group forms with {setting}, which leaves out a check of address windows",
            "  what the check guards against is not documented: hold the model's answers against "
            "those of one card",
        )
    return Result("window", FAIL, lines, {"forms_without_check": not ended.problem})


def links(ranks: int, backend: str, limit: float) -> Result:
    """Latency and bandwidth between each two ranks."""
    ended = run_ranks(f"{_TASKS}:links", ranks, limit, backend=backend, patience=limit)
    if ended.problem:
        return _failed("links", ended)
    pairs = {
        name: pair for answer in ended.answers.values() for name, pair in answer["pairs"].items()
    }
    lines = [
        f"{name}: {pair['microseconds']:g} us, {pair['gigabytes_per_second']:g} GB/s"
        for name, pair in sorted(pairs.items())
    ]
    return Result("links", PASS, tuple(lines), {"pairs": pairs})


def _failed(probe: str, ended: Ended) -> Result:
    lines = (ended.problem, *_indented(ended))
    return Result(probe, FAIL, lines, {"answered": sorted(ended.answers)})


def _indented(ended: Ended) -> list[str]:
    return [f"  {line}" for line in ended.said[-_SHOWN_LINES:]]

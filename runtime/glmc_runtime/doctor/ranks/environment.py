"""Variables of the environment: those that break collectives, and those of the artifact's table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from glmc_runtime.doctor.ranks.facts import ANYWHERE, KUNLUN, VARIABLES, Variable
from glmc_runtime.doctor.ranks.result import FAIL, PASS, SKIPPED, WARNING, Result
from glmc_runtime.errors import GlmcError
from glmc_runtime.format.bkcl import switches_of
from glmc_runtime.format.collectives import ONE_HOST, AlgorithmTable, GroupKey


def environment(variables: Mapping[str, str], target: str) -> Result:
    """The known variables in ``variables``; ``target`` is ``xpu`` where cards of Kunlun count."""
    rows = [row for row in VARIABLES if row.target in (ANYWHERE, target)]
    wrong = [row for row in rows if variables.get(row.name) in row.wrong]
    doubtful = [row for row in rows if row.wanted and variables.get(row.name) not in row.wanted]
    lines = [line for row in (*wrong, *doubtful) for line in _lines(row, variables)]
    values = {row.name: variables.get(row.name) for row in rows}
    if wrong:
        return Result("environment", FAIL, tuple(lines), values)
    if doubtful:
        return Result("environment", WARNING, tuple(lines), values)
    names = ", ".join(row.name for row in rows)
    return Result("environment", PASS, (f"no variable breaks collectives: {names}",), values)


def _lines(row: Variable, variables: Mapping[str, str]) -> Iterator[str]:
    state = f"is {variables[row.name]!r}" if row.name in variables else "is not set"
    yield f"{row.name} {state}: {row.why} ({row.source})"
    yield f"  {row.remedy}"


def switches(
    variables: Mapping[str, str],
    target: str,
    table: AlgorithmTable | None,
    ranks: int,
    dtype: str,
) -> Result:
    """What the table of an artifact needs of BKCL, which chooses by variables that it reads."""
    if table is None or target != KUNLUN:
        what = "no artifact with a table of collectives" if table is None else "not for Kunlun"
        return Result("switches", SKIPPED, (f"{what}: BKCL is not what runs",))
    key = GroupKey(ranks, ONE_HOST, dtype)
    try:
        entry = table.entry(key)
    except GlmcError as error:
        return Result("switches", FAIL, (error.message, f"  {error.remedy}"), {"group": str(key)})
    needed = switches_of(entry)
    if needed is None:
        bands = ", ".join(band.algorithm for band in entry.bands)
        line = f"no variable of BKCL is known that brings about the bands {bands}"
        return Result("switches", WARNING, (line,), {"group": str(key)})
    missing = {name: value for name, value in needed.items() if variables.get(name) != value}
    if not missing:
        line = " ".join(f"{name}={value}" for name, value in needed.items())
        return Result("switches", PASS, (line or "BKCL is left to itself",), needed)
    lines = [f"the artifact's table ({entry.origin}) needs what is not set:"]
    lines += [
        f"  export {name}={value}" + (f"  (it is {variables[name]!r})" if name in variables else "")
        for name, value in missing.items()
    ]
    return Result("switches", FAIL, tuple(lines), needed)

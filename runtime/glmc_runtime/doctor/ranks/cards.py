"""The cards that ranks take: which groups of four there can be, links, the driver's option."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from glob import glob
from pathlib import Path
from shutil import which

from glmc_runtime.doctor.ranks.facts import (
    DEVICE_FILES,
    DRIVER_OPTION,
    DRIVER_OPTION_FILES,
    LINK_ARGUMENTS,
    LINK_TOOLS,
    QUADS,
    VISIBLE_CARDS,
)
from glmc_runtime.doctor.ranks.result import FAIL, PASS, SKIPPED, WARNING, Result


def cards(
    variables: Mapping[str, str],
    ranks: int,
    limit: float,
    *,
    devices: str = DEVICE_FILES,
    options: str = DRIVER_OPTION_FILES,
) -> Result:
    """Which cards ``ranks`` take and how they are linked; nothing is run on one."""
    tool = next(filter(None, map(which, LINK_TOOLS)), None)
    found = sorted(glob(devices))
    if tool is None and not found:
        return Result("cards", SKIPPED, ("no Kunlun card, and no xpu_smi",))
    taken = taken_cards(variables, ranks)
    if taken is None:
        name = next(name for name in VISIBLE_CARDS if name in variables)
        line = f"{name} is {variables[name]!r}, and no list of {ranks} cards or more"
        return Result("cards", FAIL, (line, f"  name the cards: {name}=0,1,2,3"))
    problem = quad_problem(taken)
    lines = [problem] if problem else [f"cards {', '.join(map(str, taken))}"]
    verdict = FAIL if problem else PASS
    states = {path: _text(path) for path in glob(options)}
    if "1" not in states.values():
        verdict = FAIL if problem else WARNING
        shown = ", ".join(f"{path} is {state}" for path, state in states.items())
        lines.append(
            f"cards without XPULink need the driver's option {DRIVER_OPTION}=1: "
            + (shown or "the driver does not show it")
        )
    table = link_table(tool, limit)
    lines += table.splitlines() if table else ["no table of links"]
    return Result(
        "cards", verdict, tuple(lines), {"cards": taken, DRIVER_OPTION: states, "links": table}
    )


def taken_cards(variables: Mapping[str, str], ranks: int) -> list[int] | None:
    """The cards of the ranks by their own numbers; None where the variable lists too few, or not
    by numbers."""
    name = next((name for name in VISIBLE_CARDS if name in variables), None)
    if name is None:
        return list(range(ranks))
    try:
        numbers = [int(word) for word in variables[name].split(",")]
    except ValueError:
        return None
    return numbers[:ranks] if len(numbers) >= ranks else None


def quad_problem(taken: list[int]) -> str:
    """Why these cards are no group of four; empty for what is one, and for other numbers."""
    if len(taken) != 4 or frozenset(taken) in QUADS:
        return ""
    quads = " or ".join(f"{min(quad)}-{max(quad)}" for quad in QUADS)
    names = ", ".join(map(str, taken))
    return f"four cards can form a group only as {quads}, and these are {names}"


def link_table(tool: str | None, limit: float) -> str:
    """What the vendor's tool shows of the links; empty where it shows nothing in time."""
    for arguments in LINK_ARGUMENTS if tool is not None else ():
        try:
            done = subprocess.run(
                [str(tool), *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=limit,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            return f"{tool} {' '.join(arguments)} timed out after {limit:g} s"
        except OSError:
            return ""
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip()
    return ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        return error.strerror or str(error)

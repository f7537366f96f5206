"""What the probes of several ranks have found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PASS, WARNING, FAIL = "pass", "warning", "FAIL"
SKIPPED = "not here"
"""Nothing of this kind is on this machine: no card, no tool, no table."""


@dataclass(frozen=True)
class Result:
    """``probe`` by name with its verdict; ``lines`` say what was found and what to do, ``values``
    are numbers and names for scripts."""

    probe: str
    verdict: str
    lines: tuple[str, ...]
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RanksReport:
    """The results of all probes, in order."""

    ranks: int
    backend: str
    results: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed; a warning is no failure."""
        return all(result.verdict != FAIL for result in self.results)

    def to_json(self) -> dict[str, Any]:
        return {
            "ranks": self.ranks,
            "backend": self.backend,
            "passed": self.passed,
            "probes": {
                result.probe: {
                    "verdict": result.verdict,
                    "lines": list(result.lines),
                    "values": dict(result.values),
                }
                for result in self.results
            },
        }

    def text(self) -> str:
        """A line for each probe, and below it what else there is to say."""
        lines = [f"{self.ranks} ranks over {self.backend}"]
        for result in self.results:
            first, *others = result.lines or ("",)
            lines.append(f"{result.probe:<13}{result.verdict:<10}{first}".rstrip())
            lines += [f"{'':<23}{line}" for line in others]
        lines.append(f"verdict of the ranks: {PASS if self.passed else FAIL}")
        return "\n".join(lines)

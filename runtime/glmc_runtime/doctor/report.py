"""Findings of the doctor, per function."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from glmc_runtime.doctor.references import Outcome
from glmc_runtime.kernels.vendor import EMULATED_NOTICE, Vendor

NOTHING = "nothing to check"


@dataclass
class Finding:
    """All checks of one function; ``failures`` are (where, what)."""

    checks: int = 0
    worst_error: float = 0.0
    budget: float = 0.0
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.failures


@dataclass
class Report:
    """``unchecked`` are functions of the artifact for which there is no reference yet."""

    artifact: str
    vendor: Vendor | None
    device: str
    findings: dict[str, Finding] = field(default_factory=dict)
    unchecked: set[str] = field(default_factory=set)

    def add(self, function: str, place: str, outcome: Outcome) -> None:
        finding = self.findings.setdefault(function, Finding())
        finding.checks += 1
        finding.worst_error = max(finding.worst_error, outcome.error)
        finding.budget = max(finding.budget, outcome.budget)
        if outcome.problem:
            finding.failures.append((place, outcome.problem))

    @property
    def emulated(self) -> bool:
        return self.vendor is not None and self.vendor.emulated

    @property
    def verdict(self) -> str:
        """``FAIL``; else ``incomplete`` where not every vendor call was checked; ``pass``;
        ``nothing to check`` where the artifact has none."""
        if not all(finding.passed for finding in self.findings.values()):
            return "FAIL"
        if self.vendor is None:
            return NOTHING
        return "pass" if self.findings and not self.unchecked else "incomplete"

    @property
    def passed(self) -> bool:
        """Whether this machine is as good as it was asked to be."""
        return self.verdict in ("pass", NOTHING)

    @property
    def ran_on(self) -> str:
        return "emulated" if self.emulated else f"hardware ({self.device})"

    def to_json(self) -> dict[str, Any]:
        return {
            "artifact": self.artifact,
            "emulated": self.emulated,
            "vendor": None if self.vendor is None else self.vendor.description,
            "verdict": self.verdict,
            "passed": self.passed,
            "unchecked": sorted(self.unchecked),
            "functions": {
                name: {
                    "passed": finding.passed,
                    "ran_on": self.ran_on,
                    "checks": finding.checks,
                    "worst_error": finding.worst_error,
                    "budget": finding.budget,
                    "failures": [
                        {"where": where, "problem": problem} for where, problem in finding.failures
                    ],
                }
                for name, finding in sorted(self.findings.items())
            },
        }

    def text(self) -> str:
        """A table, then the first failures of each function."""
        if self.vendor is None:
            return (
                f"{self.artifact}: no plan calls a function of a vendor's library\n"
                f"verdict: {self.verdict}"
            )
        lines = [f"{self.artifact}: {self.vendor.description}"]
        if self.emulated:
            lines.append(EMULATED_NOTICE)
        header = f"{'function':<40}{'verdict':<9}{'checks':>7}{'worst':>10}{'budget':>10}"
        lines.append(f"{header}  ran on")
        for name, finding in sorted(self.findings.items()):
            verdict = "pass" if finding.passed else "FAIL"
            row = f"{name:<40}{verdict:<9}{finding.checks:>7}{finding.worst_error:>10.1e}"
            lines.append(f"{row}{finding.budget:>10.1e}  {self.ran_on}")
        lines += [f"{name:<40}not checked: no reference" for name in sorted(self.unchecked)]
        for name, finding in sorted(self.findings.items()):
            for where, problem in finding.failures[:3]:
                lines.append(f"{name}: {problem}\n    at {where}")
        lines.append(f"verdict: {self.verdict}" + (" (emulated)" if self.emulated else ""))
        return "\n".join(lines)

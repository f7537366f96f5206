"""The guards of an artifact in words."""

from __future__ import annotations

from dataclasses import dataclass

from glmc.observe.page.artifact import ArtifactFacts


@dataclass(frozen=True)
class Guard:
    """One thing that must hold where the artifact is loaded."""

    name: str
    text: str


def guard_rows(facts: ArtifactFacts | None) -> list[Guard]:
    """The guards, empty where they are not known."""
    if facts is None:
        return []
    guards = facts.guards
    return [
        Guard("target", guards.target),
        Guard("glmc-runtime", f"{guards.minimum_runtime} or newer"),
        Guard("torch", f"{guards.minimum_torch} or newer"),
        Guard("context", f"at most {facts.limits.max_context} tokens"),
        *(
            Guard(f"{entry.key} buckets", ", ".join(map(str, entry.buckets)))
            for entry in facts.phases
        ),
    ]

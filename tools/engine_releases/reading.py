"""Surfaces of many releases, one of which is on disk at a time."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from packaging.version import Version

from glmc.errors import UsageError
from glmc_engines.surface.adapters import adapter_uses
from glmc_engines.surface.command import read_release
from glmc_engines.surface.engines import Spec, release
from glmc_engines.surface.uses import Use
from glmc_engines.surface.verdict import Verdict, changes, lacking
from tools.engine_releases.records import Record, Surface

# The first release of each engine that the table has.
FIRST = {"sglang": "0.5.15", "vllm": "0.25.0"}


def read_surfaces(specs: Sequence[Spec], folder: Path, done: Callable[[Record], None]) -> None:
    """Look each release up; each is compared with the one of the same engine before it."""
    before: tuple[Spec, list[Verdict]] | None = None
    for spec in sorted(specs, key=lambda each: (each.name, Version(each.version))):
        uses = adapter_uses(spec.name)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            verdicts = read_release(uses, release(spec, Path(cache)))
        older = before if before is not None and before[0].name == spec.name else None
        done(Record(spec.name, spec.version, surface(uses, verdicts, older)))
        before = (spec, verdicts)


def surface(
    uses: Sequence[Use], verdicts: Sequence[Verdict], older: tuple[Spec, list[Verdict]] | None
) -> Surface:
    """What is kept of the verdicts on one release."""
    needed = lacking(verdicts)
    absent = [each for each in verdicts if not each.fits and each not in needed]
    changed = changes(older[1], verdicts) if older is not None else []
    return Surface(
        rows=rows_digest(uses),
        names=len(uses),
        lacking=tuple(f"{each.use.name}: {each.reason}" for each in needed),
        optional=tuple(f"{each.use.name}: {each.reason}" for each in absent),
        against=older[0].version if older is not None else "",
        changed=tuple(f"{each.name}: {each.what}" for each in changed),
    )


def rows_digest(uses: Sequence[Use]) -> str:
    """Tells rows of another state of the adapter apart; where they stand does not count."""
    asked = [(use.name, use.kind, use.parameters, use.optional, use.override) for use in uses]
    return hashlib.sha256(repr(asked).encode()).hexdigest()[:12]


def named(texts: Sequence[str]) -> list[Spec]:
    """Releases by name; a name without a version is all on the package index from the first on."""
    specs: list[Spec] = []
    for text in texts:
        spec = Spec.parse(text)
        specs += [spec] if spec.version else list(_on_the_index(spec.name))
    return specs


def _on_the_index(name: str) -> Iterator[Spec]:
    if name not in FIRST:
        raise UsageError(
            f"the table has no engine '{name}'",
            expected=", ".join(FIRST),
            remedy="name one of them",
        )
    command = [sys.executable, "-m", "pip", "index", "versions", name]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    match = re.search(r"Available versions: (.+)", said.stdout)
    if match is None:
        raise UsageError(
            f"the package index does not tell the versions of {name}",
            found=(said.stderr.strip().splitlines() or ["nothing"])[-1],
            remedy=f"name them, as in {name}=={FIRST[name]}",
        )
    for version in match[1].split(", "):
        if Version(version) >= Version(FIRST[name]):
            yield Spec(name, version)

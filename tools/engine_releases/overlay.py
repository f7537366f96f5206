"""A release in a folder that is laid over the environment of another one.

Both engines run on one torch over many releases, but pin transformers: where the environment's is
none that the release takes, one that it takes is laid over it too.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from glmc_engines.surface.engines import Spec

_LAID_TOO = ("transformers", "tokenizers", "huggingface-hub")
_SHOWN = ("torch", "transformers")
_VERSIONS = """
import importlib.metadata, json, sys
found = {"Python": ".".join(map(str, sys.version_info[:3]))}
for each in importlib.metadata.distributions():
    found.setdefault(each.metadata["Name"].lower().replace("_", "-"), each.version)
print(json.dumps(found))
"""


def lay(python: Path, spec: Spec, wheels: Path, folder: Path) -> None:
    """Install a release into a folder, and what of ``_LAID_TOO`` it asks for in other versions."""
    built = sorted(wheels.glob(f"{spec.name}-{spec.version}[-+]*.whl"))
    _install(python, str(built[0]) if built else f"{spec.name}=={spec.version}", folder)
    present = versions(python)
    asking = [spec.name]
    while asking:
        for wanted in unmet(asking.pop(), folder, present):
            _install(python, f"{wanted.name}{wanted.specifier}", folder)
            asking.append(canonicalize_name(wanted.name))


def unmet(name: str, folder: Path, present: dict[str, str]) -> Iterator[Requirement]:
    """What a distribution in a folder asks for of ``_LAID_TOO`` and does not find."""
    of_folder = {canonicalize_name(each.name): each for each in _installed(folder)}
    for text in of_folder[canonicalize_name(name)].requires or ():
        wanted = Requirement(text)
        key = canonicalize_name(wanted.name)
        if key in _LAID_TOO and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            found = of_folder[key].version if key in of_folder else present.get(key)
            if found is None or not wanted.specifier.contains(found, prereleases=True):
                yield wanted


def versions(python: Path, over: Path | None = None) -> dict[str, str]:
    """Versions of the distributions that an interpreter finds, and its own as that of "Python"."""
    environment = {**os.environ, **({} if over is None else {"PYTHONPATH": str(over)})}
    command = [str(python), "-c", _VERSIONS]
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(said.stdout)
    return found


def beside(python: Path, over: Path) -> tuple[str, ...]:
    """The versions that tests of a release ran with."""
    found = versions(python, over)
    minor = ".".join(found["Python"].split(".")[:2])
    shown = [f"{name} {found[name].partition('+')[0]}" for name in _SHOWN if name in found]
    return (f"Python {minor}", *shown)


def _installed(folder: Path) -> Iterator[Distribution]:
    yield from distributions(path=[str(folder)])


def _install(python: Path, what: str, folder: Path) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
    subprocess.run([*command, "--target", str(folder), what], check=True)

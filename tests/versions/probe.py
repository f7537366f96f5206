"""What glmc makes of small models with the transformers that is installed.

``python -m tests.versions.probe FILE`` writes it as JSON, for a process that has another
transformers to compare.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

import glmc_runtime
from tests.e2e.build import CPU, EMULATED, UNCHUNKED, Builder, generated
from tests.e2e.grid import GRID, Point, write_checkpoint
from tests.e2e.reference import greedy, load_eager, prompts

# Interleaved rope; sandwich norms; groups of experts; q/k norm and no groups.
POINTS = (GRID[0], GRID[2], GRID[9], GRID[14])
PLACES = (CPU, EMULATED[0])
LENGTHS = (1, 7, 16, 22)
NEW_TOKENS = 24


def probe() -> dict[str, Any]:
    """The version and, by the name of each point, what :func:`compiled` tells of it."""
    with tempfile.TemporaryDirectory() as directory:
        models = {point.name: compiled(point, Path(directory, point.name)) for point in POINTS}
    return {"transformers": transformers.__version__, "models": models}


def compiled(point: Point, directory: Path) -> dict[str, Any]:
    """The tokens of Hugging Face; by target those of glmc, matches by pass, plans.

    Each version stores random weights in a form of its own, so tokens of two versions can't be
    compared with each other. Plans can, once they name nothing after the traced code.
    """
    checkpoint = write_checkpoint(point, directory / "checkpoint", torch.float32)
    texts = prompts(lengths=LENGTHS)
    builder = Builder(checkpoint, directory / "artifacts")
    targets = {}
    for place in PLACES:
        path = builder.artifact(place, **UNCHUNKED)
        session = glmc_runtime.load(path, emulate=True if place.target == "xpu" else None)
        report = json.loads((path / "report.json").read_text())
        targets[place.name] = {
            "tokens": generated(session, texts, NEW_TOKENS),
            "matches": {one["name"]: one["matches"] for one in report["passes"]},
            "expected": report["expected_matches"],
            "plans": {
                plan.stem: nameless(json.loads(plan.read_text()), {})
                for plan in sorted(path.glob("plans/*.json"))
            },
        }
    tokens = greedy(load_eager(checkpoint, torch.float32), texts, NEW_TOKENS)
    return {"tokens": tokens, "targets": targets}


def nameless(found: Any, seen: dict[str, int]) -> Any:
    """A plan without the modules that its calls come from, buffers and weights by their order.

    A tied weight has two names, and a router may be a module of its own or part of another.
    """
    if isinstance(found, dict):
        kept = {key: value for key, value in found.items() if key not in ("module", "node")}
        return {key: nameless(value, seen) for key, value in kept.items()}
    if isinstance(found, list):
        return [nameless(value, seen) for value in found]
    if isinstance(found, str) and found.startswith(("model.", "lm_head.")):
        return seen.setdefault(found, len(seen))
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(probe()), encoding="utf-8")

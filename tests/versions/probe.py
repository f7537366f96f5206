"""What glmc makes of small models with the torch and transformers that are installed.

``python -m tests.versions.probe FILE`` writes it as JSON, for a process that has other versions
to compare.
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
from tests.dynamo.compiled import decode, model_of, prompt, static_cache
from tests.e2e.build import CPU, EMULATED, UNCHUNKED, Builder, generated
from tests.e2e.grid import GRID, Point, write_checkpoint
from tests.e2e.reference import greedy, load_eager, prompts
from tests.support.models import MODERN

# Interleaved rope; sandwich norms; groups of experts; q/k norm and no groups.
POINTS = (GRID[0], GRID[2], GRID[9], GRID[14])
PLACES = (CPU, EMULATED[0])
LENGTHS = (1, 7, 16, 22)
NEW_TOKENS = 24


def probe() -> dict[str, Any]:
    """The versions, what :func:`traced` tells and, by the name of each point, :func:`compiled`."""
    with tempfile.TemporaryDirectory() as directory:
        models = {point.name: compiled(point, Path(directory, point.name)) for point in POINTS}
    return {
        "transformers": transformers.__version__,
        "torch": torch.__version__.partition("+")[0],
        "models": models,
        "traced": traced(),
    }


def traced() -> dict[str, list[int]] | None:
    """Greedy tokens over a static cache, by eager code and by ``torch.compile`` with this backend.

    None for transformers before 5, whose forward Dynamo of torch 2.13 can't trace as one graph.
    """
    if not MODERN:
        return None
    model = model_of("glm4_moe")
    forward = torch.compile(model.forward, backend="kunlun", fullgraph=True)
    found = {}
    for name, step in (("eager", model.forward), ("kunlun", forward)):
        logits = decode(model, step, NEW_TOKENS, static_cache(model), prompt(1))
        found[name] = logits.argmax(-1)[0].tolist()
    return found


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
            "plans": plans_of(path),
        }
    tokens = greedy(load_eager(checkpoint, torch.float32), texts, NEW_TOKENS)
    # transformers 5.24 keeps the weight of a router in float32 beside others in bfloat16.
    rounded = plans_of(builder.artifact(CPU, "bfloat16", **UNCHUNKED))
    return {"tokens": tokens, "targets": targets, "bfloat16": rounded}


def plans_of(artifact: Path) -> dict[str, Any]:
    """Its plans by phase, without names of the traced code, and the kinds of its weights."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    plans = {
        plan.stem: nameless(json.loads(plan.read_text()), {})
        for plan in sorted(artifact.glob("plans/*.json"))
    }
    weights = sorted((one["dtype"], one["shape"]) for one in manifest["weights"].values())
    return {**plans, "weights": weights}


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

"""Artifacts, engines and references of the tests here."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from glmc_engines.core.counters import Count, shared_counts

ROOT = Path(__file__).parents[3]
MODELS = ROOT / "models"
ARTIFACTS = ROOT / ".engines" / "artifacts"
MARGIN = 1e-3
"""Two likeliest tokens nearer than this may change places between two right computations."""


@cache
def artifact_of(model: str, *options: str) -> str:
    """An artifact of a shipped model, kept between runs while it is up to date."""
    compiler = os.environ["GLMC_COMPILER"]
    path = ARTIFACTS / "-".join([model, *(text.strip("-") for text in options)])
    command = [compiler, "-c", "from glmc.cli.main import main; main()"]
    command += ["compile", str(MODELS / model), "--target", "cpu"]
    command += ["--dtype", "float32", "--if-changed", "--force", "--output", str(path), *options]
    # The engine's paths are not the compiler's.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "runtime")])}
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "w") as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        subprocess.run(command, env=environment, check=True, capture_output=True)
    return str(path)


def prompts(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    """Ragged prompts of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(0, 1500, (n,), generator=generator).tolist() for n in lengths]


class Reference:
    """A shipped model in transformers, in float32, one text at a time."""

    def __init__(self, model: str) -> None:
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(MODELS / model, dtype=torch.float32)

    @torch.no_grad()
    def logits(self, tokens: list[int]) -> torch.Tensor:
        logits: torch.Tensor = self._model(torch.tensor([tokens])).logits[0]
        return logits

    def first_difference(self, prompt: list[int], answer: list[int]) -> int | None:
        """Where an answer leaves the likeliest tokens of this model; None where it never does, or
        where the two likeliest are as good as equal first."""
        logits = self.logits(prompt + answer)[len(prompt) - 1 : -1]
        best = logits.topk(2).values
        for place, token in enumerate(answer):
            if token != int(logits[place].argmax()):
                return place
            if float(best[place, 0] - best[place, 1]) < MARGIN:
                return None
        return None


@contextmanager
def engine(model: str, path: str, **options: Any) -> Iterator[Any]:
    """An offline engine with the plug-in, over an artifact."""
    import sglang

    os.environ["GLMC_ARTIFACT"] = path
    settings: dict[str, Any] = {
        "model_path": str(MODELS / model),
        "device": "cpu",
        "dtype": "float32",
        "max_total_tokens": 4096,
        "mem_fraction_static": 0.3,
        "skip_server_warmup": True,
        "random_seed": 0,
        "log_level": "info",
    }
    started = sglang.Engine(**{**settings, **options})
    try:
        yield started
    finally:
        started.shutdown()


def counted(name: str, rank: int = 0, **labels: str) -> int:
    """The sum of the counts of a rank that have these labels."""
    wanted = set(labels.items())
    counts: list[Count] = list(shared_counts())
    return sum(
        count.value
        for count in counts
        if count.name == name and count.rank == rank and wanted <= set(count.labels)
    )

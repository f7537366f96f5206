"""Decode steps of one rank and of two on this machine, beside what ``glmc estimate`` predicts.

    python -m bench.estimate.gloo
    python -m bench.estimate.gloo --model tiny-dense

Each rank is a process with one thread. What the prediction knows is measured in the same run: the
table of collectives, as by ``tune-collectives``, and reads, products and calls by as many processes
at once as there are ranks. Prints markdown; the load of the machine is printed with it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
import yaml

import glmc_runtime
from bench.cpu.decode import prompts
from bench.cpu.deterministic import Step, steps_of
from bench.estimate.cpu import Measured, described, measured
from bench.models import BenchModel, bench_models
from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc.estimates.device_file import parse_device
from glmc.estimates.estimate import estimate
from glmc.estimates.traffic import Traffic
from glmc_runtime.collectives.group import Group
from glmc_runtime.collectives.launch import run_job
from glmc_runtime.format.algorithms import TREE
from glmc_runtime.format.collectives import ONE_HOST
from glmc_runtime.format.phases import DECODE

RANKS, BATCHES, LONGEST = (1, 2), (1, 4), 512
LIMIT = 120.0
_MIDDLE = {
    "hidden_size": 1024,
    "num_hidden_layers": 8,
    "intermediate_size": 4096,
    "vocab_size": 8192,
    "num_attention_heads": 8,
}


def rates_job(group: Group, device: torch.device) -> str:
    """What a rank gets of the machine while the others measure as well, as JSON."""
    return json.dumps(asdict(measured()))


def model_of(name: str) -> BenchModel:
    """``middle``, 138 million parameters whose weights fit into no cache, or one by its key."""
    models = {model.key: model for model in bench_models(quick=False)}
    dense = models["dense"]
    models["middle"] = BenchModel("middle", "dense, 0.14 B", {**dense.config, **_MIDDLE})
    return models[name]


def rows(model: BenchModel, steps: int, folder: Path) -> Iterator[str]:
    """A row for each number of ranks and batch."""
    checkpoint = model.checkpoint or folder / "model"
    if model.checkpoint is None:
        checkpoint.mkdir()
        (checkpoint / "config.json").write_text(json.dumps(model.config))
    job = "glmc_runtime.collectives.tune:tune_job"
    table = run_job(job, {"numerics": TREE}, max(RANKS), topology=ONE_HOST, limit=LIMIT)
    links = folder / "collectives.json"
    links.write_text(table)
    vocabulary = int(model.config["vocab_size"])
    for ranks in RANKS:
        given = table if ranks > 1 else None
        options = CompileOptions(
            dtype="float32",
            max_context=LONGEST,
            decode_buckets=BATCHES,
            prefill_buckets=(64 * max(BATCHES),),
            weights="checkpoint" if model.checkpoint else "random",
            tensor_parallel=ranks,
            collectives=given,
        )
        artifact = folder / str(ranks)
        compile_model(checkpoint, artifact, options)
        found = run_job("bench.estimate.gloo:rates_job", {}, ranks, topology=ONE_HOST, limit=LIMIT)
        rates = Measured(**json.loads(found))
        with glmc_runtime.load(artifact) as session:
            taken = {
                batch: _times(steps_of(session, batch, vocabulary)[f"decode {batch}"], steps)
                for batch in BATCHES
            }
        device = parse_device(yaml.safe_dump(described(links, rates)).encode(), "this machine")
        context = len(prompts(1, vocabulary)[0]) + 1
        made = estimate(
            checkpoint,
            device,
            Traffic(BATCHES, context, context),
            "float32",
            ranks,
            ranks,
            collectives=given,
        )
        for step in made.placed.steps:
            if step.step.phase == DECODE.name:
                times = taken[step.step.sequences]
                middle = statistics.median(times)
                cells = (
                    f"{ranks}",
                    f"{step.step.sequences}",
                    f"{rates.read / 1e9:.1f}",
                    f"{middle * 1e3:.2f} ({min(times) * 1e3:.2f})",
                    f"{step.seconds * 1e3:.2f}",
                    f"{step.seconds / middle - 1:+.0%} ({step.seconds / min(times) - 1:+.0%})",
                    f"{step.communication:.0%}" if ranks > 1 else "-",
                )
                yield f"| {' | '.join(cells)} |"


def _times(step: Step, steps: int) -> list[float]:
    """Seconds of each of so many steps, after three that warm up."""
    found = []
    for _ in range(steps + 3):
        started = time.perf_counter()
        step()
        found.append(time.perf_counter() - started)
    return found[3:]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="middle", help="middle, dense or tiny-dense")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args(words)
    os.environ.update(OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    model = model_of(options.model)
    print(f"{model.title}, float32, one thread a rank; load {os.getloadavg()[0]:.1f} before")
    print()
    print("| ranks | batch | read, GB/s | ms, median (least) | predicted | error | collectives |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(model, options.steps, Path(folder)):
            print(row, flush=True)
    print()
    print(f"load {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()

"""Time per decoded step on the CPU: eager Hugging Face, its compiled forms, and glmc.

    python -m bench.cpu.decode                 # 1.2 B dense and 2.5 B MoE, batch 1, 4, 16
    python -m bench.cpu.decode --quick         # models of a few million parameters

Prints the median time per step, tokens per second, the ratio to eager, and the share of the floor:
weight bytes that a step must read over the memory bandwidth, measured in the same run.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench.cpu import aot, peers
from bench.models import BenchModel, bench_models
from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc.weights.random_checkpoint import write_random_checkpoint

PROMPT, LONGEST = 64, 256


@dataclass(frozen=True)
class Timing:
    """One row of the table; ``best`` and ``median`` are seconds per step."""

    model: str
    batch: int
    peer: str
    median: float
    best: float
    floor: float


def bandwidth(clock: Callable[[], float]) -> float:
    """Bytes per second that all threads together read: best of ten sums over 1 GiB."""
    data = torch.ones(1 << 28)
    times = []
    for _ in range(10):
        started = clock()
        data.sum()
        times.append(clock() - started)
    return data.numel() * data.element_size() / min(times)


def measure(
    step: peers.Step, batch: int, steps: int, clock: Callable[[], float]
) -> tuple[float, float]:
    """Median and best seconds per step, after three steps that warm up."""
    tokens, times = [5] * batch, []
    for count in range(steps + 3):
        started = clock()
        tokens = step(tokens)
        if count >= 3:
            times.append(clock() - started)
    return statistics.median(times), min(times)


def prompts(batch: int, vocabulary: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(batch)
    ids = torch.randint(2, vocabulary, (batch, PROMPT), generator=generator)
    return [list(map(int, row)) for row in ids.tolist()]


def steppers(
    names: list[str],
    checkpoint: Path,
    artifact: Path,
    options: CompileOptions,
    prompt_ids: list[list[int]],
) -> Iterator[tuple[str, Callable[[], peers.Step]]]:
    """Peers by name; each is made when it is asked for and dropped after its measurement."""
    everything: dict[str, Callable[[], peers.Step]] = {
        "eager": lambda: peers.eager(peers.load_eager(checkpoint), prompt_ids),
        "torch.compile": lambda: peers.compiled(peers.load_eager(checkpoint), prompt_ids, LONGEST),
        "AOTInductor": lambda: aot.stepper(checkpoint, artifact, options, prompt_ids),
        "glmc": lambda: peers.ours(artifact, prompt_ids),
    }
    return ((name, everything[name]) for name in names)


def bench(
    model: BenchModel,
    batches: list[int],
    names: list[str],
    steps: int,
    folder: Path,
    clock: Callable[[], float],
) -> Iterator[Timing]:
    checkpoint, artifact = model.checkpoint or folder / "checkpoint", folder / "artifact"
    if model.checkpoint is None:
        write_random_checkpoint(checkpoint, model.config)
    options = CompileOptions(
        target="cpu",
        dtype="bfloat16",
        max_context=LONGEST,
        decode_buckets=tuple(sorted(batches)),
        prefill_buckets=(PROMPT * max(batches),),
    )
    compile_model(checkpoint, artifact, options)
    for batch in batches:
        prompt_ids = prompts(batch, model.config["vocab_size"])
        for name, make in steppers(names, checkpoint, artifact, options, prompt_ids):
            floor = model.weight_bytes(batch) / bandwidth(clock)
            with torch.no_grad():
                step = make()
                median, best = measure(step, batch, steps, clock)
            del step
            gc.collect()
            yield Timing(model.title, batch, name, median, best, floor)


def show(timings: list[Timing]) -> None:
    table = Table(
        title=f"bfloat16, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"load average {os.getloadavg()[0]:.1f}"
    )
    for title in ("model", "batch", "", "ms/step", "best", "tok/s", "x eager", "floor ms", "floor"):
        table.add_column(title, justify="right")
    eager = {(row.model, row.batch): row.median for row in timings if row.peer == "eager"}
    for row in timings:
        base = eager.get((row.model, row.batch))
        table.add_row(
            row.model,
            str(row.batch),
            row.peer,
            f"{row.median * 1e3:.1f}",
            f"{row.best * 1e3:.1f}",
            f"{row.batch / row.median:.1f}",
            "-" if base is None else f"{base / row.median:.2f}",
            f"{row.floor * 1e3:.1f}",
            f"{row.floor / row.median:.0%}",
        )
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="models of a few million parameters")
    parser.add_argument("--batches", default="1,4,16")
    parser.add_argument("--peers", default="eager,torch.compile,AOTInductor,glmc")
    parser.add_argument("--models", default="dense,moe", help="also: tiny-dense, tiny-moe")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--cpu-clock",
        action="store_true",
        help="processor time of this process, for a machine with other load; one thread only",
    )
    options = parser.parse_args()
    if options.cpu_clock and options.threads != 1:
        parser.error("--cpu-clock counts all threads together: it needs --threads 1")
    clock = time.process_time if options.cpu_clock else time.perf_counter
    torch.set_num_threads(options.threads)
    timings: list[Timing] = []
    for model in bench_models(options.quick):
        if model.key not in options.models.split(","):
            continue
        with tempfile.TemporaryDirectory() as folder:
            batches = [int(batch) for batch in options.batches.split(",")]
            names = options.peers.split(",")
            for timing in bench(model, batches, names, options.steps, Path(folder), clock):
                timings.append(timing)
                print(timing, file=sys.stderr, flush=True)
    show(timings)


if __name__ == "__main__":
    main()

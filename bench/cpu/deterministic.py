"""What ``--deterministic`` costs on the CPU: usual kernels, ``batch`` and ``ranks``, in turns.

    python -m bench.cpu.deterministic --models tiny-dense,tiny-moe --threads 1 --cpu-clock

For each model, dtype and kind of step it prints the best milliseconds of the usual kernels and how
many times as long both promises take: the ratio of two steps that ran one after the other, median
over all rounds, so that what else the machine does meets all three alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import glmc_runtime
from bench.cpu.work import prompts
from bench.models import BenchModel, model_of
from bench.words import names_of, numbers
from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc_runtime.generate.session import Session

PROMISES = (None, "batch", "ranks")
LONGEST, PREFILL = 512, 256
Step = Callable[[], None]


@dataclass(frozen=True)
class Cost:
    """``best`` seconds of a step without a promise, and the ratio of each promise to it."""

    model: str
    dtype: str
    step: str
    best: float
    batch: float
    ranks: float


def steps_of(session: Session, batch: int, vocabulary: int) -> dict[str, Step]:
    """A decode step of a batch after a prompt of 64, and a prefill of ``PREFILL`` tokens."""
    sequences = [session.sequence(prompt) for prompt in prompts(batch, vocabulary)]
    session.prefill(sequences)
    prompt = (prompts(1, vocabulary)[0] * PREFILL)[:PREFILL]

    def decode() -> None:
        session.decode(sequences, [5] * batch)
        for sequence in sequences:
            session.truncate(sequence, len(sequence) - 1)

    def prefill() -> None:
        sequence = session.sequence(prompt)
        session.prefill([sequence])
        session.release(sequence)

    named = {f"decode {batch}": decode}
    return {**named, f"prefill {PREFILL}": prefill} if batch == 1 else named


def measure(
    model: BenchModel,
    dtype: str,
    batches: tuple[int, ...],
    rounds: int,
    folder: Path,
    clock: Callable[[], float],
) -> Iterator[Cost]:
    sessions = []
    for promise in PROMISES:
        options = CompileOptions(
            dtype=dtype,
            deterministic=promise,
            max_context=LONGEST,
            decode_buckets=tuple(sorted(batches)),
            prefill_buckets=(max(PREFILL, 64 * max(batches)),),
            weights="checkpoint" if model.checkpoint else "random",
        )
        artifact = folder / str(promise)
        compile_model(model.checkpoint or folder / "model", artifact, options)
        sessions.append(glmc_runtime.load(artifact))
    vocabulary = int(model.config["vocab_size"])
    for batch in batches:
        steps = [steps_of(session, batch, vocabulary) for session in sessions]
        for name in steps[0]:
            times = [_times([each[name] for each in steps], clock) for _ in range(rounds + 1)][1:]
            ratios = [[row[column] / row[0] for row in times] for column in (1, 2)]
            best = min(row[0] for row in times)
            medians = map(statistics.median, ratios)
            yield Cost(model.title, dtype, name, best, *medians)


def _times(steps: list[Step], clock: Callable[[], float]) -> list[float]:
    found = []
    for step in steps:
        started = clock()
        step()
        found.append(clock() - started)
    return found


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--models",
        type=names_of,
        default="tiny-dense,tiny-moe",
        help="also: dense, moe, middle, moe-middle",
    )
    parser.add_argument("--dtypes", type=names_of, default="float32,bfloat16")
    parser.add_argument("--batches", type=numbers, default="1,16")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="models of a few million parameters")
    parser.add_argument(
        "--cpu-clock",
        action="store_true",
        help="processor time of this process, for a machine with other load; one thread only",
    )
    options = parser.parse_args(words)
    if options.cpu_clock and options.threads != 1:
        parser.error("--cpu-clock counts all threads together: it needs --threads 1")
    return options


def main() -> None:
    options = arguments(sys.argv[1:])
    clock = time.process_time if options.cpu_clock else time.perf_counter
    torch.set_num_threads(options.threads)
    table = Table(title=f"{options.threads} threads, torch {torch.__version__}")
    for title in ("model", "dtype", "step", "usual, ms", "batch", "ranks"):
        table.add_column(title, justify="right")
    for key in options.models:
        model = model_of(key, options.quick)
        for dtype in options.dtypes:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                if model.checkpoint is None:
                    _write_config(model, folder / "model")
                for cost in measure(model, dtype, options.batches, options.rounds, folder, clock):
                    table.add_row(
                        cost.model,
                        cost.dtype,
                        cost.step,
                        f"{cost.best * 1e3:.2f}",
                        f"x {cost.batch:.2f}",
                        f"x {cost.ranks:.2f}",
                    )
    Console(width=100).print(table)


def _write_config(model: BenchModel, folder: Path) -> None:

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(model.config)))


if __name__ == "__main__":
    main()

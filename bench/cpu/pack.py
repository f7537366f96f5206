"""Time to pack a checkpoint, beside a plain copy of its files to the same disk.

    python -m bench.cpu.pack                        # 8 layers of GLM-4-9B, 1 and 8 ranks, in /tmp
    python -m bench.cpu.pack --checkpoint DIR       # a checkpoint that is there
    python -m bench.cpu.pack --cold                 # none of its bytes in memory before each run

A copy is `cp` and fsync, as packing ends with one. Copies and packs take turns. Prints medians of
wall and CPU seconds and the ratio to the copy; with recipes nothing is written but their hashes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.words import numbers
from glmc.compiler import compile_plan, write_compiled
from glmc.config import FROM_CHECKPOINT, CompileOptions
from glmc.job import read_job
from glmc.weights.random_checkpoint import write_random_checkpoint

CONFIG = Path(__file__).parents[2] / "glmc" / "presets" / "glm-4-9b-0414.json"


@dataclass
class Row:
    """What is timed, and the seconds of each round."""

    name: str
    run: Callable[[Path], object]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def measure(self, target: Path) -> None:
        """Run once into a directory that is not there before and after."""
        before, started = _cpu_seconds(), time.perf_counter()
        self.run(target)
        self.wall.append(time.perf_counter() - started)
        self.cpu.append(_cpu_seconds() - before)
        shutil.rmtree(target)
        os.sync()


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def copied(checkpoint: Path) -> Callable[[Path], None]:
    """`cp` of the weight files, put on the disk."""

    def run(target: Path) -> None:
        target.mkdir()
        files = sorted(map(str, checkpoint.glob("*.safetensors")))
        subprocess.run(["cp", *files, str(target)], check=True)
        for path in target.iterdir():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    return run


def packed(checkpoint: Path, ranks: int, weights: str) -> Callable[[Path], object]:
    """The last part of a compile, which writes the artifact; the plan is made before."""
    options = CompileOptions(tensor_parallel=ranks, weights=weights)
    compiled = compile_plan(read_job(checkpoint, options))
    return lambda target: write_compiled(compiled, target)


def forget(checkpoint: Path) -> None:
    """Drop the files from the page cache."""
    for path in checkpoint.glob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="default: a random one is written")
    parser.add_argument("--layers", type=int, default=8, help="of the random checkpoint")
    parser.add_argument("--ranks", type=numbers, default="1,8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="drop the checkpoint from memory")
    parser.add_argument("--folder", type=Path, help="where everything is written")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder, checkpoint = Path(name), arguments.checkpoint
        if checkpoint is None:
            checkpoint = folder / "checkpoint"
            config = {
                **json.loads(CONFIG.read_text())["config"],
                "num_hidden_layers": arguments.layers,
            }
            write_random_checkpoint(checkpoint, config)
        size = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
        rows = [Row("copy", copied(checkpoint))]
        for ranks in arguments.ranks:
            for weights in ("checkpoint", FROM_CHECKPOINT):
                run = packed(checkpoint, ranks, weights)
                rows.append(Row(f"{weights}, ranks {ranks}", run))
        for _ in range(arguments.rounds):
            for row in rows:
                if arguments.cold:
                    forget(checkpoint)
                row.measure(folder / "out")
    Console(width=100).print(table(rows, size))


def table(rows: list[Row], size: int) -> Table:
    result = Table(title=f"{size / 1e9:.2f} GB")
    for title in ("", "wall s", "CPU s", "x copy", "GB/s"):
        result.add_column(title, justify="right" if title else "left")
    base = statistics.median(rows[0].wall)
    for row in rows:
        wall = statistics.median(row.wall)
        cpu = statistics.median(row.cpu)
        cells = (f"{wall:.2f}", f"{cpu:.2f}", f"{wall / base:.2f}", f"{size / wall / 1e9:.2f}")
        result.add_row(row.name, *cells)
    return result


if __name__ == "__main__":
    main()

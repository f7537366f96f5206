"""Decode steps at the card's limit of power: after a rest, after ours and after vLLM's.

    GLMC_PEER_SITE=DIR python -m bench.gpu.power --output p.json --models 9b --batches 64,128
    GLMC_PEER_SITE=DIR python -m bench.gpu.power --quick --target cpu --output q.json

Steps of many sequences bring a card to its limit of power: its clock falls, and how fast a step is
depends on what ran before. Each round has a block of 12 steps of each side after each of the three.
Clock and watts are those that nvidia-smi reads within a block, its warm-up steps among them, and of
vLLM's the prompts that it begins with.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from time import sleep, time
from typing import Any

import torch

from bench.gpu.decode_blocks import Blocks, decode_blocks
from bench.gpu.gpu_models import Bench
from bench.gpu.gpu_table import Section
from bench.gpu.peer_command import measure_and_write
from bench.gpu.vllm_side import VLLM, Sizes, lacking, site, vllm_side
from bench.models import GPU_MODELS, gpu_model
from bench.words import sizes, some_of

GLMC, REST = "glmc", "rest"
ORDER = (REST, GLMC, GLMC, VLLM, REST, VLLM, VLLM, GLMC)
"""Of a round: each side after each of the three, once."""
STEPS = 12
_PROGRAM = "nvidia-smi"
_FIELDS = "timestamp,clocks.sm,power.draw.instant"
_READING_MS = 20


@dataclass(frozen=True)
class Block:
    """A block of a side, what was before it, and when it ran, by the clock of the host."""

    side: str
    after: str
    ms: float
    begin: float
    end: float


@dataclass(frozen=True)
class Reading:
    """What nvidia-smi said: MHz and watts."""

    at: float
    clock: float
    watts: float


def blocks_in_turn(blocks: Blocks, rounds: int, rest: float) -> list[Block]:
    """All blocks of the rounds; one round is left out before those that count."""
    times = {GLMC: blocks.ours, VLLM: blocks.theirs}
    done, before = [], REST
    for number in range(-1, rounds):
        for side in ORDER:
            if side == REST:
                sleep(rest)
            else:
                begin = time()
                block = Block(side, before, times[side](), begin, time())
                if number >= 0:
                    done.append(block)
            before = side
    return done


@contextmanager
def written_readings(path: Path, quick: bool) -> Iterator[None]:
    """Have nvidia-smi write its readings into a file until the end; none in a quick run. Raises
    ValueError at once where it has none."""
    if quick:
        path.touch()
        yield
        return
    card = f"--id=GPU-{torch.cuda.get_device_properties(0).uuid}"
    ask = [_PROGRAM, card, f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"]
    first = subprocess.run(ask, capture_output=True, text=True, check=False)
    if not readings_of(first.stdout):
        raise ValueError(f"{_PROGRAM} gives no reading: {first.stderr.strip()}")
    with path.open("wb") as file:
        process = subprocess.Popen([*ask, f"--loop-ms={_READING_MS}"], stdout=file)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def readings_of(text: str) -> list[Reading]:
    """The readings of nvidia-smi's lines, of which the last may be cut off. Raises ValueError for
    one that is none, such as its word that it does not know a field."""
    readings = []
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        try:
            stamp, clock, watts = line.split(", ")
            at = datetime.strptime(stamp, "%Y/%m/%d %H:%M:%S.%f").timestamp()
            readings.append(Reading(at, float(clock), float(watts)))
        except ValueError:
            raise ValueError(
                f"{_PROGRAM} was asked for {_FIELDS} and said '{line.strip()}'"
            ) from None
    return readings


def rows_of(
    batch: int, blocks: Sequence[Block], readings: Sequence[Reading]
) -> list[dict[str, Any]]:
    """A row for each side and what was before it."""
    rows = []
    for side, after in dict.fromkeys((block.side, block.after) for block in blocks):
        mine = [block for block in blocks if (block.side, block.after) == (side, after)]
        within = [
            reading
            for reading in readings
            if any(block.begin <= reading.at <= block.end for block in mine)
        ]
        rows.append(
            {
                "batch": batch,
                "side": side,
                "after": after,
                "all_ms": [block.ms for block in mine],
                "clock": [reading.clock for reading in within],
                "watts": [reading.watts for reading in within],
            }
        )
    return sorted(rows, key=lambda row: (row["side"], row["after"]))


def measured(options: argparse.Namespace, key: str, folder: Path) -> list[dict[str, Any]]:
    """The rows of a model."""
    model = gpu_model(key, options.quick)
    shape = Sizes(options.batches, (1024,), options.context)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    session = Bench(model, folder, device, options.target).session(
        decode=shape.batches,
        prefill=shape.prefills,
        max_context=shape.context + 1024,
        kv_tokens=shape.kv_tokens,
        block_size=32 if options.quick else 128,
    )
    log = options.output.with_name(f"{key}.power.log")
    rows = []
    with vllm_side(model, shape, folder, log, options.quick) as side:
        for batch in shape.batches:
            path = folder / f"readings.{batch}"
            given = {"batch": batch, "context": shape.context, "steps": STEPS}
            with (
                decode_blocks(model, session, side, **given) as blocks,
                written_readings(path, options.quick),
            ):
                found = blocks_in_turn(blocks, options.rounds, options.rest)
            for row in rows_of(batch, found, readings_of(path.read_text("utf-8"))):
                rows.append({"model": model.title, **row})
                print(row, flush=True)
    return rows


def table_of(rows: Iterable[Mapping[str, Any]]) -> Section:
    """The table of a page."""
    return Section(
        f"Blocks of {STEPS} decode steps by what was before them",
        ("model", "batch", "side", "after", "ms", "of each round", "clock, MHz", "most watts"),
        [
            (
                row["model"],
                str(row["batch"]),
                row["side"],
                row["after"],
                f"{median(row['all_ms']):.2f}",
                _range(row["all_ms"], 2),
                _range(row["clock"], 0),
                f"{max(row['watts']):.0f}" if row["watts"] else "",
            )
            for row in rows
        ],
    )


def _range(values: Sequence[float], digits: int) -> str:
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}" if values else ""


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="the JSON")
    parser.add_argument("--models", type=some_of(tuple(GPU_MODELS)), default=["9b"])
    parser.add_argument("--batches", type=sizes, default=(64, 128))
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rest", type=float, default=2.0, help="seconds")
    parser.add_argument("--quick", action="store_true", help="tiny; says nothing of power")
    parser.add_argument("--target", default="cuda")
    options = parser.parse_args(words)
    if not options.quick and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device: only --quick runs here")
    if not options.quick and shutil.which(_PROGRAM) is None:
        parser.error(f"{_PROGRAM}, which reads clock and watts, is not on PATH: only --quick runs")
    why = lacking(site())
    if why is not None:
        parser.error(why)
    if options.quick:
        options.context, options.rest = 96, 0.0
    return options


def main(words: list[str] | None = None) -> int:
    words = sys.argv[1:] if words is None else words
    options = arguments(words)
    measure_and_write("power", words, options, measured, table_of)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m bench.gpu.virtual_ranks``: the all-reduces over the memory of peers, on one GPU.

Several ranks share a card, each with memory and a stream of its own, so that their kernels run at
once and meet as those of several cards do. Values are compared with the sum in the order of the
ranks; then graphs are replayed for the rest of the time with random delays, and checked on the
device. Prints a table; exits with 1 at a fault or a hang. What this can't show is the way between
cards: there are no links, and all ranks read one cache.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass

import torch

from bench.gpu.one_shot_without_barrier import without_barrier
from bench.gpu.virtual_group import VirtualGroup, resident_programs
from bench.gpu.virtual_races import PROVED, Counts, Races, plain
from bench.gpu.virtual_values import ROWS, HangError, cases, fault_of, fused_fault_of
from bench.words import numbers
from glmc_runtime.kernels.cuda.launch import multiprocessors, pdl_enabled

CONNECTIONS = "CUDA_DEVICE_MAX_CONNECTIONS"
"""Queues of a GPU: streams that share one wait for each other, so that ranks would hang."""
CAPACITY = 1 << 21
"""Bytes of a slot: some messages go in pieces."""
MOST_WITH_PDL = 2
"""Ranks on one card that may have it. Four waited for ever on an H200: likely because kernels that
start early and wait for their own rank's all-reduce hold places that another rank's needs."""
_PDL = "GLMC_CUDA_PDL"
_SHOWN = 5


@dataclass
class Result:
    """Of a number of ranks."""

    ranks: int
    programs: int
    pdl: bool
    values: int
    fused: int
    races: Counts
    control: Counts
    seconds: float
    faults: list[str]

    def row(self) -> str:
        races, control = self.races, self.control
        cells = (
            self.ranks, self.programs, "yes" if self.pdl else "no", self.values,
            self.fused, f"{races.replays:,}",
            f"{races.calls:,}", len(self.faults), f"{control.faults:,} of {control.calls:,} calls",
            f"{self.seconds:.1f}",
        )  # fmt: skip
        return f"| {' | '.join(map(str, cells))} |"


HEAD = (
    "| ranks | programs a rank | PDL | values: cases | fused: cases | graph replays "
    "| calls in them | faults | control, nobody waits: wrong elements | s |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def proved(ranks: int, seconds: float, device: torch.device) -> Result:
    """Values, then races for what is left of the seconds."""
    began = time.monotonic()
    programs = resident_programs(ranks, device)
    group = VirtualGroup(ranks, device, programs, CAPACITY)
    values = [fault_of(group, case) for case in cases()]
    fused = [fused_fault_of(group, *rows) for rows in ROWS]
    faults = [fault for fault in (*values, *fused) if fault]
    print(f"{ranks} ranks: values after {time.monotonic() - began:.1f} s", flush=True)
    control = Races(group, {"without barrier": plain(without_barrier)}, graphs=1).run(0)
    if not control.faults:
        faults.append("the control, in which nobody waits, shows no fault: it can't see one")
    races = Races(group, PROVED)
    print(f"{ranks} ranks: graphs after {time.monotonic() - began:.1f} s", flush=True)
    counts = races.run(max(seconds - (time.monotonic() - began), 1.0))
    if counts.faults:
        faults.append(f"{counts.faults} elements of captured calls are wrong: {counts.fault}")
    spent = time.monotonic() - began
    pdl = pdl_enabled(device)
    return Result(ranks, programs, pdl, len(values), len(fused), counts, control, spent, faults)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu.virtual_ranks", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument(
        "--ranks", type=numbers, default="2,4,8", help="numbers of ranks, with commas"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for all of them")
    parser.add_argument(
        "--pdl", action="store_true", help="with programmatic dependent launch: 2 ranks at most"
    )
    chosen = parser.parse_args(words)
    if chosen.pdl and max(chosen.ranks) > MOST_WITH_PDL:
        parser.error(f"--pdl: on one card {MOST_WITH_PDL} ranks at most, more may wait for ever")
    os.environ[_PDL] = "1" if chosen.pdl else "0"
    os.environ.setdefault(CONNECTIONS, "32")
    if not torch.cuda.is_available():
        print("virtual ranks run at once on an NVIDIA GPU, and there is none", file=sys.stderr)
        return 1
    device = torch.device("cuda", torch.cuda.current_device())
    results = []
    for ranks in chosen.ranks:
        try:
            results.append(proved(ranks, chosen.seconds / len(chosen.ranks), device))
        except HangError as hang:
            print(f"{ranks} ranks wait for ever: {hang}", flush=True)
            os._exit(1)  # kernels that never end can't be waited for
    print(
        f"{torch.cuda.get_device_name(device)}, {multiprocessors(device)} multiprocessors, torch "
        f"{torch.__version__}; PDL: programmatic dependent launch"
    )
    print("\n".join([HEAD, *(result.row() for result in results)]))
    for result in results:
        for fault in result.faults[:_SHOWN]:
            print(f"{result.ranks} ranks: {fault}")
    return int(any(result.faults for result in results))


if __name__ == "__main__":
    sys.exit(main())

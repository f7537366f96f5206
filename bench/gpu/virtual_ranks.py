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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from bench.gpu.one_shot_without_barrier import without_barrier
from bench.gpu.virtual_group import VirtualGroup, resident_programs
from bench.gpu.virtual_races import PROVED, Counts, Races, plain
from bench.gpu.virtual_values import ROWS, HangError, cases, fault_of, fused_fault_of
from glmc_runtime.kernels.cuda.launch import multiprocessors, pdl_enabled

CONNECTIONS = "CUDA_DEVICE_MAX_CONNECTIONS"
"""Queues of a GPU: streams that share one wait for each other, so that ranks would hang."""
CAPACITY = 1 << 21
"""Bytes of a slot: some messages go in pieces."""
MOST_WITH_EARLY_LAUNCH = 2
"""Ranks on one card whose kernels may start before the one before has ended (programmatic dependent
launch). Of four, those that wait for their own rank's all-reduce hold the places that another
rank's all-reduce needs, and all wait for ever. A rank with a card of its own has no such neighbour:
there its kernels start early once all programs of the one before have a place."""
_EARLY_LAUNCH = "GLMC_CUDA_PDL"
_SHOWN = 5


@dataclass
class Result:
    """Of a number of ranks."""

    ranks: int
    programs: int
    early_launch: bool
    values: int
    fused: int
    races: Counts
    control: Counts
    seconds: float
    faults: list[str]

    def row(self) -> str:
        races, control = self.races, self.control
        cells = (
            self.ranks, self.programs, "yes" if self.early_launch else "no", self.values,
            self.fused, f"{races.replays:,}",
            f"{races.calls:,}", len(self.faults), f"{control.faults:,} of {control.calls:,} calls",
            f"{self.seconds:.1f}",
        )  # fmt: skip
        return f"| {' | '.join(map(str, cells))} |"


HEAD = (
    "| ranks | programs a rank | early launch | values: cases | fused: cases | graph replays "
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
    early = pdl_enabled(device)
    return Result(ranks, programs, early, len(values), len(fused), counts, control, spent, faults)


@contextmanager
def early_launch_of_few(ranks: int) -> Iterator[None]:
    """Without it where there are more ranks than may have it."""
    before = os.environ.get(_EARLY_LAUNCH)
    if ranks > MOST_WITH_EARLY_LAUNCH:
        os.environ[_EARLY_LAUNCH] = "0"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_EARLY_LAUNCH, None)
        else:
            os.environ[_EARLY_LAUNCH] = before


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu.virtual_ranks", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--ranks", default="2,4,8", help="numbers of ranks, with commas")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all of them")
    chosen = parser.parse_args()
    os.environ.setdefault(CONNECTIONS, "32")
    if not torch.cuda.is_available():
        print("virtual ranks run at once on an NVIDIA GPU, and there is none", file=sys.stderr)
        return 1
    device = torch.device("cuda", torch.cuda.current_device())
    numbers = [int(each) for each in chosen.ranks.split(",")]
    results = []
    for ranks in numbers:
        try:
            with early_launch_of_few(ranks):
                results.append(proved(ranks, chosen.seconds / len(numbers), device))
        except HangError as hang:
            print(f"{ranks} ranks wait for ever: {hang}", flush=True)
            os._exit(1)  # kernels that never end can't be waited for
    print(
        f"{torch.cuda.get_device_name(device)}, {multiprocessors(device)} multiprocessors, torch "
        f"{torch.__version__}; early launch: programmatic dependent launch"
    )
    print("\n".join([HEAD, *(result.row() for result in results)]))
    for result in results:
        for fault in result.faults[:_SHOWN]:
            print(f"{result.ranks} ranks: {fault}")
    return int(any(result.faults for result in results))


if __name__ == "__main__":
    sys.exit(main())

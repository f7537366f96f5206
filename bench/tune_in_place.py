"""Choose the configuration of each product of a decode step by the time of the whole step.

    python -m bench.tune_in_place --output FILE [--model 9b] [--batches 1,16]
                                  [--keys 4608x4096] [--seconds N]

A product alone among its own kind is not where it runs: in a step it starts while the small call
before it ends, and what it fetches ahead then costs nothing. So each kind of product in turn takes
every candidate, in all layers, in the captured graph of the step, on top of what was chosen for the
kinds before it. The best are measured again in turn with what the table has, and the winner's
results compared with a reference. FILE is a table as ``bench.tune_cuda`` writes it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.gpu_decode import CONTEXT, make_session
from bench.gpu_models import Bench, GpuModel, gpu_model
from bench.gpu_ours import filled, prepared, released
from bench.gpu_stages import Stage, stages_of
from bench.gpu_timing import Thunk, captured, device_times
from bench.tunable import Configuration, Tunable
from bench.tunables_dense import tunables
from bench.tune_cuda import FAILURES, brief, is_right, write
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cuda import tuned
from glmc_runtime.session import Session

FINALISTS = 3
LEAST_GAIN = 1e-3  # of a step; less is noise


@dataclass(frozen=True)
class Tried:
    """A step with one kind of product changed: its thunks and what it takes, milliseconds."""

    configuration: Configuration
    thunks: tuple[Thunk, ...]
    ms: float


class StepInPlace:
    """The bound calls of one decode step, and its time with some of them bound otherwise."""

    def __init__(self, session: Session, model: GpuModel, batch: int) -> None:
        self._session = session
        self.calls = session.artifact.plans["decode"].calls
        self.sequences = filled(model, session, batch, CONTEXT - 1)
        ready = prepared(session, self.sequences, [5 + row for row in range(batch)])
        binder = session._replays["decode"]._binder
        places = range(len(self.calls))
        self.arguments = [binder.arguments(place, ready.symbols) for place in places]
        self.thunks = tuple(self.bind(place) for place in places)

    def bind(self, place: int, configuration: Configuration | None = None) -> Thunk:
        more = {} if configuration is None else {"configuration": configuration}
        return find_binder(self.calls[place].function)({**self.arguments[place], **more})

    def changed(
        self, thunks: Sequence[Thunk], stage: Stage, configuration: Configuration
    ) -> tuple[Thunk, ...]:
        found = list(thunks)
        for place in stage.positions:
            found[place] = self.bind(place, configuration)
        return tuple(found)

    def time(self, thunks: Sequence[Thunk], repeats: int = 3) -> float:
        graph = captured(thunks, self._session.device)
        return statistics.median(device_times(graph.replay, self._session.device, repeats, 8, 1))


def tune(
    step: StepInPlace, known: dict[tuple[str, str], Tunable], device: torch.device, deadline: float
) -> dict[tuple[str, str], Configuration]:
    """The configurations that made the step faster than the table's, by kernel and key."""
    best = step.thunks
    chosen: dict[tuple[str, str], Configuration] = {}
    for stage in stages_of(step.calls):
        kernel = stage.function.removeprefix("cuda.")
        weight = step.arguments[stage.positions[0]].get("weight")
        if weight is None or weight.dim() != 2:
            continue
        key = "x".join(map(str, weight.shape))
        tunable = known.get((kernel, key))
        if tunable is None:
            continue
        now = tuned.configuration(kernel, weight.dtype, key, tunable.rows)
        tried = [Tried(now or {}, best, step.time(best))]
        for configuration in tunable.candidates():
            if time.monotonic() > deadline:
                break
            if configuration == now:
                continue
            try:
                thunks = step.changed(best, stage, configuration)
                tried.append(Tried(configuration, thunks, step.time(thunks)))
            except FAILURES as failure:
                print(f"  {brief(configuration)}: {type(failure).__name__}", flush=True)
        winner = _winner(step, tried, tunable, device)
        print(
            f"{stage.name:28} {key:>12} {tunable.rows:>3} rows: {tried[0].ms:.4f} ms by "
            f"{brief(tried[0].configuration)}"
            + ("" if winner is None else f"; {winner.ms:.4f} by {brief(winner.configuration)}"),
            flush=True,
        )
        if winner is not None:
            chosen[kernel, key] = winner.configuration
            best = winner.thunks
    print(f"the step: {step.time(step.thunks, 5):.4f} ms, now {step.time(best, 5):.4f}", flush=True)
    return chosen


def _winner(
    step: StepInPlace, tried: list[Tried], tunable: Tunable, device: torch.device
) -> Tried | None:
    """The fastest, measured again, that is right and faster than the first; None keeps that."""
    finalists = sorted(tried[1:], key=lambda one: one.ms)[:FINALISTS]
    rounds = [[step.time(one.thunks) for one in (tried[0], *finalists)] for _ in range(3)]
    first, *others = (statistics.median(times) for times in zip(*rounds, strict=True))
    generator = torch.Generator(device).manual_seed(int(time.time()))
    for ms, one in sorted(zip(others, finalists, strict=True), key=lambda pair: pair[0]):
        if ms > first * (1 - LEAST_GAIN):
            return None
        wrong = is_right(tunable, one.configuration, device, generator)
        if not wrong:
            return Tried(one.configuration, one.thunks, ms)
        print(f"  WRONG {brief(one.configuration)}: {wrong}", flush=True)
    return None


def parse(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", choices=("9b", "air"), default="9b")
    parser.add_argument("--batches", default="1,16,64", help="by comma; those the table has")
    parser.add_argument("--keys", default="", help="sizes of weights, by comma; all if not given")
    parser.add_argument("--seconds", type=float, default=500.0, help="wall time for everything")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    options = parse(given)
    deadline = time.monotonic() + options.seconds
    if not torch.cuda.is_available():
        raise SystemExit("tuning needs an NVIDIA GPU")
    device = torch.device("cuda")
    batches = tuple(sorted(int(batch) for batch in options.batches.split(",")))
    keys = set(filter(None, options.keys.split(",")))
    model = gpu_model(options.model, quick=False)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(model, Path(folder), device, "cuda")
        session = make_session(bench, batches, quick=False)
        for batch in batches:
            step = StepInPlace(session, model, batch)
            known = {
                (one.kernel, one.key): one
                for one in tunables()
                if one.rows == batch and (not keys or one.key in keys)
            }
            found = tune(step, known, device, deadline)
            for which, configuration in found.items():
                name = torch.cuda.get_device_name(device)
                write(options.output, name, known[which], configuration)
            released(session, step.sequences)


if __name__ == "__main__":
    main()

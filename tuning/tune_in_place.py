"""Choose the configuration of each product of a decode step by the time of the whole step.

    python -m tuning.tune_in_place --output FILE [--model 9b] [--batches 1,16]
                                  [--keys 4608x4096] [--seconds N]

A product alone among its own kind is not where it runs: in a step it starts while the small call
before it ends, and what it fetches ahead then costs nothing. So each kind of product in turn takes
every candidate, in all layers, in the captured graph of the step, on top of what was chosen for the
kinds before it. A winner is faster than what was there in each of three further rounds, and its
results are compared with a reference. FILE is a table as ``tuning.tune_cuda`` writes it: what it
holds is what winners must beat (the runtime's own table where it holds nothing), and each winner is
written at once.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.gpu.gpu_decode import CONTEXT, make_session
from bench.gpu.gpu_models import Bench
from bench.gpu.gpu_ours import filled, prepared, released
from bench.gpu.gpu_timing import Thunk, captured, device_times
from bench.models import BenchModel, gpu_model
from bench.words import names_of, sizes
from glmc_runtime.format.phases import DECODE
from glmc_runtime.generate.session import Session
from glmc_runtime.kernels import find_binder
from glmc_runtime.kernels.cuda import tuned
from tuning.tunable import Configuration, Tunable
from tuning.tunables_dense import ROWS, tunables
from tuning.tune_cuda import FAILURES, brief, is_right, write

FINALISTS = 3
ROUNDS = 3
LEAST_GAIN = 1e-3  # of a step: about what one graph differs by within a run

Thunks = tuple[Thunk, ...]
Which = tuple[str, str]  # kernel and key, as in a table


@dataclass(frozen=True)
class Tried:
    """A configuration, and what the step takes with it, milliseconds."""

    configuration: Configuration
    ms: float


class StepInPlace:
    """The bound calls of one decode step, and its time with some of them bound otherwise."""

    def __init__(
        self, session: Session, model: BenchModel, batch: int, context: int = CONTEXT
    ) -> None:
        self._session = session
        self.calls = session.artifact.plans[DECODE.key].calls
        self.sequences = filled(model, session, batch, context - 1)
        ready = prepared(session, self.sequences, [5 + row for row in range(batch)])
        binder = session._replays[DECODE.key]._binder
        places = range(len(self.calls))
        self.arguments = [binder.arguments(place, ready.symbols) for place in places]
        self.thunks = tuple(self.bind(place) for place in places)

    def bind(self, place: int, configuration: Configuration | None = None) -> Thunk:
        more = {} if configuration is None else {"configuration": configuration}
        return find_binder(self.calls[place].function)({**self.arguments[place], **more})

    def changed(self, thunks: Thunks, positions: list[int], configuration: Configuration) -> Thunks:
        """``thunks``, those at ``positions`` bound with a configuration."""
        changed = list(thunks)
        for place in positions:
            changed[place] = self.bind(place, configuration)
        return tuple(changed)

    def time(self, thunks: Thunks, repeats: int = 3) -> float:
        """Milliseconds of the captured step."""
        graph = captured(thunks, self._session.device)
        return statistics.median(device_times(graph.replay, self._session.device, repeats, 8, 1))


def tune(
    step: StepInPlace,
    known: dict[Which, Tunable],
    table: dict[str, Any],
    device: torch.device,
    deadline: float,
    keep: Callable[[Tunable, Configuration], None],
) -> None:
    """Give ``keep`` each configuration that makes the step faster than that of ``table``, or of
    the runtime where ``table`` has none."""
    installed = best = step.thunks
    for (kernel, key), positions in _products(step).items():
        tunable = known.get((kernel, key))
        if tunable is None:
            continue
        if time.monotonic() > deadline:
            print(f"out of time at {kernel} {key}, {tunable.rows} rows", flush=True)
            return
        dtype, rows = tunable.dtype_name, tunable.rows
        now = table.get(kernel, {}).get(dtype, {}).get(key, {}).get(str(rows))
        if now is None:
            now = tuned.configuration(kernel, tunable.dtype, key, rows)
        else:
            best = step.changed(best, positions, now)
        before = step.time(best)
        tried = _tried(step, best, positions, tunable, now, deadline)
        winner = _winner(step, best, positions, tried, tunable, device)
        best_text = "" if winner is None else f"; {winner.ms:.4f} by {brief(winner.configuration)}"
        print(
            f"{kernel:16} {key:>12} {rows:>3} rows: {before:.4f} ms by "
            f"{brief(now or {'variant': 'the default'})}{best_text}",
            flush=True,
        )
        if winner is not None:
            best = step.changed(best, positions, winner.configuration)
            keep(tunable, winner.configuration)
    times = step.time(installed, 5), step.time(best, 5)
    print(f"the step: {times[0]:.4f} ms, now {times[1]:.4f}", flush=True)


def _products(step: StepInPlace) -> dict[Which, list[int]]:
    """The calls of each kernel and size of weight; several kinds of one size are tuned as one."""
    positions: dict[Which, list[int]] = {}
    for place, call in enumerate(step.calls):
        weight = step.arguments[place].get("weight")
        if isinstance(weight, torch.Tensor) and weight.dim() == 2:
            key = "x".join(map(str, weight.shape))
            positions.setdefault((call.function.removeprefix("cuda."), key), []).append(place)
    return positions


def _tried(
    step: StepInPlace,
    best: Thunks,
    positions: list[int],
    tunable: Tunable,
    now: Configuration | None,
    deadline: float,
) -> list[Tried]:
    """All candidates but ``now``, the fastest first."""
    timed = []
    for configuration in tunable.candidates():
        if time.monotonic() > deadline:
            print("  out of time: later candidates were not tried", flush=True)
            break
        if configuration == now:
            continue
        try:
            ms = step.time(step.changed(best, positions, configuration))
        except FAILURES as failure:
            print(f"  {brief(configuration)}: {type(failure).__name__}", flush=True)
            continue
        timed.append(Tried(configuration, ms))
    return sorted(timed, key=lambda each: each.ms)


def _winner(
    step: StepInPlace,
    best: Thunks,
    positions: list[int],
    tried: list[Tried],
    tunable: Tunable,
    device: torch.device,
) -> Tried | None:
    """The fastest of the first few that is right and, measured again in turn with ``best``,
    faster in every round; None where none is."""
    finalists = [
        (each, step.changed(best, positions, each.configuration)) for each in tried[:FINALISTS]
    ]
    rounds = [
        [step.time(thunks) for thunks in (best, *(thunks for _, thunks in finalists))]
        for _ in range(ROUNDS)
    ]
    first, *others = zip(*rounds, strict=True)
    generator = torch.Generator(device).manual_seed(int(time.time()))
    again = [
        Tried(each.configuration, statistics.median(times))
        for (each, _), times in zip(finalists, others, strict=True)
        if all(ms < before * (1 - LEAST_GAIN) for ms, before in zip(times, first, strict=True))
    ]
    for each in sorted(again, key=lambda each: each.ms):
        wrong = is_right(tunable, each.configuration, device, generator)
        if not wrong:
            return each
        print(f"  WRONG {brief(each.configuration)}: {wrong}", flush=True)
    return None


def known_for(batch: int, keys: Collection[str]) -> dict[Which, Tunable]:
    """What can be tuned for a batch: weights of ``keys``, all where that is empty. Ends the command
    where there is none of a key."""
    every = {(each.kernel, each.key): each for each in tunables() if each.rows == batch}
    absent = set(keys) - {each.key for each in every.values()}
    if absent:
        raise SystemExit(f"--keys: no weight of {batch} rows has {', '.join(sorted(absent))}")
    return {which: each for which, each in every.items() if not keys or each.key in keys}


def _batches(text: str) -> tuple[int, ...]:
    batches = sizes(text)
    if not set(batches) <= set(ROWS):
        raise argparse.ArgumentTypeError(f"a table has {', '.join(map(str, ROWS))} rows")
    return batches


def parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", choices=("9b", "air"), default="9b")
    parser.add_argument("--batches", type=_batches, default=(1, 16, 64), help="by comma")
    parser.add_argument("--keys", type=names_of, default=[], help="sizes of weights, by comma")
    parser.add_argument("--seconds", type=float, default=500.0, help="wall time for everything")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    options = parse(words)
    deadline = time.monotonic() + options.seconds
    if not torch.cuda.is_available():
        raise SystemExit("tuning needs an NVIDIA GPU")
    device = torch.device("cuda")
    keep = partial(write, options.output, torch.cuda.get_device_name(device))
    table = tuned.read_table(options.output)
    model = gpu_model(options.model, quick=False)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(model, Path(folder), device, "cuda")
        session = make_session(bench, options.batches, quick=False)
        for batch in options.batches:
            step = StepInPlace(session, model, batch)
            known = known_for(batch, options.keys)
            tune(step, known, table, device, deadline, keep)
            released(session, step.sequences)


if __name__ == "__main__":
    main()

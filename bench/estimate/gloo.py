"""Decode steps of one rank and of two on this machine, beside what ``glmc estimate`` predicts.

    python -m bench.estimate.gloo
    python -m bench.estimate.gloo --write mine.yaml

Each rank is a process with one thread. What a prediction knows is measured in the same run: the
table of collectives, as by ``tune-collectives``; reads, products and calls, by as many processes at
once as there are ranks; and steps of the models of ``FITTED``, to which the constants of the time
model are fitted: for each number of ranks by itself, since two of them may share a core. The models
of ``HELD_OUT`` are predicted with these. Models are measured in turns, in rounds, so that what else
the machine does meets all alike. Prints markdown; ``--write`` writes the description of the machine
for ``glmc estimate --device``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml

import glmc_runtime
from bench.cpu.deterministic import Step, steps_of
from bench.cpu.work import prompts
from bench.estimate.cpu import UNFITTED, Constants, Measured, described, measured
from bench.estimate.cpu_fit import DTYPE, constants, sample
from bench.models import BenchModel, model_of
from glmc.compiler import compile_model
from glmc.config import CompileOptions
from glmc.estimates.device import Device
from glmc.estimates.device_file import parse_device
from glmc.estimates.estimate import estimate
from glmc.estimates.step_estimate import EstimatedStep
from glmc.estimates.traffic import Traffic
from glmc_runtime.collectives.group import Group
from glmc_runtime.collectives.launch import run_job
from glmc_runtime.format.algorithms import TREE
from glmc_runtime.format.collectives import ONE_HOST
from glmc_runtime.format.phases import DECODE

RANKS, BATCHES, LONGEST = (1, 2), (1, 4), 512
FITTED = ("tiny-dense", "wide", "moe-wide")
HELD_OUT = ("middle", "moe-middle", "tiny-moe")
LIMIT = 120.0


def rates_job(group: Group, device: torch.device) -> str:
    """What a rank gets of the machine while the others measure as well, as JSON."""
    return json.dumps(asdict(measured()))


@dataclass(frozen=True)
class Case:
    """A model dealt to ranks, and how long its steps took, by batch."""

    model: BenchModel
    ranks: int
    times: dict[int, list[float]]

    def seconds(self, batch: int) -> float:
        return statistics.median(self.times[batch])


@dataclass(frozen=True)
class Machine:
    """What is measured of this machine beside steps: ``links`` is the file of the table."""

    folder: Path
    links: Path
    rates: dict[int, Measured]

    def device(self, ranks: int, fitted: Constants) -> Device:
        data = described(self.links, self.rates[ranks], fitted)
        return parse_device(yaml.safe_dump(data).encode(), "this machine")

    def checkpoint(self, model: BenchModel) -> Path:
        if model.checkpoint is not None:
            return model.checkpoint
        folder = self.folder / model.key
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(model.config))
        return folder

    def predicted(self, case: Case, fitted: Constants) -> dict[int, EstimatedStep]:
        """By batch."""
        context = len(prompts(1, int(case.model.config["vocab_size"]))[0]) + 1
        made = estimate(
            self.checkpoint(case.model),
            self.device(case.ranks, fitted),
            Traffic(BATCHES, context, context),
            DTYPE,
            case.ranks,
            case.ranks,
            collectives=self.links.read_text() if case.ranks > 1 else None,
        )
        steps = (each for each in made.placed.steps if each.step.phase == DECODE.name)
        return {each.step.sequences: each for each in steps}


def machine(folder: Path, numbers: Sequence[int]) -> Machine:
    """Links by the job of ``tune-collectives``, rates by as many processes as there are ranks."""
    job = "glmc_runtime.collectives.tune:tune_job"
    table = run_job(job, {"numerics": TREE}, max(RANKS), topology=ONE_HOST, limit=LIMIT)
    links = folder / "collectives.json"
    links.write_text(table)
    rates = {}
    for ranks in numbers:
        found = run_job("bench.estimate.gloo:rates_job", {}, ranks, topology=ONE_HOST, limit=LIMIT)
        rates[ranks] = Measured(**json.loads(found))
    return Machine(folder, links, rates)


def measured_cases(place: Machine, names: tuple[str, ...], rounds: int, steps: int) -> list[Case]:
    """The models by name, each dealt to each number of ranks."""
    cases = [Case(model_of(name), ranks, {}) for name in names for ranks in place.rates]
    artifacts = [_artifact(place, case) for case in cases]
    for _ in range(rounds):
        for case, artifact in zip(cases, artifacts, strict=True):
            vocabulary = int(case.model.config["vocab_size"])
            with glmc_runtime.load(artifact) as session:
                for batch in BATCHES:
                    step = steps_of(session, batch, vocabulary)[f"decode {batch}"]
                    case.times.setdefault(batch, []).extend(_times(step, steps))
    return cases


def _artifact(place: Machine, case: Case) -> Path:
    options = CompileOptions(
        dtype=DTYPE,
        max_context=LONGEST,
        decode_buckets=BATCHES,
        prefill_buckets=(64 * max(BATCHES),),
        weights="checkpoint" if case.model.checkpoint else "random",
        tensor_parallel=case.ranks,
        collectives=place.links.read_text() if case.ranks > 1 else None,
    )
    artifact = place.folder / f"{case.model.key}.{case.ranks}"
    compile_model(place.checkpoint(case.model), artifact, options)
    return artifact


def _times(step: Step, steps: int) -> list[float]:
    """Seconds of each of so many steps, after five that warm up."""
    found = []
    for _ in range(steps + 5):
        started = time.perf_counter()
        step()
        found.append(time.perf_counter() - started)
    return found[5:]


def fitted_constants(place: Machine, cases: list[Case], ranks: int) -> Constants:
    """Constants of the time model for the steps of these cases with so many ranks."""
    samples = []
    device = place.device(ranks, UNFITTED)
    mine = [case for case in cases if case.ranks == ranks]
    for case in mine:
        for batch, step in place.predicted(case, UNFITTED).items():
            samples.append(sample(device, ranks, step, case.seconds(batch)))
    names = "; ".join(case.model.title for case in mine)
    source = (
        f"fitted by bench.estimate.gloo to {len(samples)} decode steps of {ranks} ranks: {names}"
    )
    return constants(samples, f"{place.rates[ranks].where}: {source}")


def rows(
    place: Machine, cases: list[Case], fitted: dict[int, Constants], held_out: bool
) -> Iterator[str]:
    for case in cases:
        for batch, step in place.predicted(case, fitted[case.ranks]).items():
            times, middle = sorted(case.times[batch]), case.seconds(batch)
            cells = (
                case.model.title,
                f"{case.ranks}",
                f"{batch}",
                f"{middle * 1e3:.2f} ({times[len(times) // 10] * 1e3:.2f})",
                f"{step.seconds * 1e3:.2f}",
                f"{step.seconds / middle - 1:+.0%}",
                f"{step.communication:.0%}" if case.ranks > 1 else "-",
                "held out" if held_out else "fitted",
            )
            yield f"| {' | '.join(cells)} |"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15, help="of each batch in a round")
    parser.add_argument("--write", type=Path, default=None)
    options = parser.parse_args(words)
    os.environ.update(OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    print(f"float32, one thread a rank; load {os.getloadavg()[0]:.1f} before\n")
    with tempfile.TemporaryDirectory() as folder:
        place = machine(Path(folder), options.ranks)
        cases = measured_cases(place, FITTED + HELD_OUT, options.rounds, options.steps)
        known = [case for case in cases if case.model.key in FITTED]
        fitted = {ranks: fitted_constants(place, known, ranks) for ranks in place.rates}
        for ranks, rates in place.rates.items():
            print(
                f"{ranks} at once: {rates.read / 1e9:.1f} GB/s, {rates.product / 1e9:.1f} GFLOPS, "
                f"{rates.call * 1e6:.2f} us a call; {fitted[ranks]}"
            )
        print(f"load {os.getloadavg()[0]:.1f} after\n")
        print(
            "| model | ranks | batch | ms, median (10th part) | predicted | error | collectives | |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for part, held_out in ((known, False), ([c for c in cases if c not in known], True)):
            for row in rows(place, part, fitted, held_out):
                print(row, flush=True)
        if options.write:
            data = described(place.links, place.rates[max(place.rates)], fitted[max(place.rates)])
            text = yaml.safe_dump(data, sort_keys=False, width=110)
            parse_device(text.encode(), str(options.write))
            options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

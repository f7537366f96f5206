"""Measure the configurations of the CUDA kernels and keep the best of each shape.

    python -m tuning.tune_cuda --output FILE [--only linear,linear_swiglu] [--rows 1,16]
                              [--keys 4608x4096] [--ranks 2,4] [--quick] [--seconds N]
                              [--processes N] [--times FILE]

Calls run in a captured graph, over enough copies of the operands that no cache helps; a time is
the median of several replays. Before a configuration wins, its result is compared with a reference
on fresh random inputs, twice. FILE is a table as ``glmc_runtime.kernels.cuda.tuned`` reads it; what
it already holds of this device stays unless it is measured again. When the seconds run out, what
was measured by then is written. Processes compile beforehand, into Triton's cache on disk.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from triton.errors import TritonError

from bench.words import names_of, sizes
from glmc_runtime.errors import GlmcError
from glmc_runtime.kernels import find_binder
from tuning.tunable import Arguments, Configuration, Tunable

MODULES = ("tuning.tunables_dense", "tuning.tunables_moe", "tuning.tunables_attention")
ROTATED_BYTES = 400_000_000
REPLAYS = 7
HOPELESS = 1.25  # of the best so far: what takes longer is not measured exactly
FAILURES = (RuntimeError, ValueError, TritonError, GlmcError)
Thunk = Callable[[], Any]


@dataclass(frozen=True)
class Measured:
    """What one configuration takes, in microseconds."""

    configuration: Configuration
    us: float


def all_tunables(options: argparse.Namespace) -> list[Tunable]:
    """What is to be tuned; ends the command where a word of its selection chooses nothing."""
    every: list[Tunable] = []
    for name in MODULES:
        if importlib.util.find_spec(name):
            every += importlib.import_module(name).tunables(options.ranks)
    rows = options.rows or ((1, 16) if options.quick else ())
    selection = (
        ("--only", options.only, lambda each: each.kernel),
        ("--rows", rows, lambda each: each.rows),
        ("--keys", options.keys, lambda each: each.key),
    )
    for option, wanted, of in selection:
        absent = set(wanted) - {of(each) for each in every}
        if absent:
            raise SystemExit(f"{option}: nothing is left that has {', '.join(map(str, absent))}")
        every = [each for each in every if not wanted or of(each) in wanted]
    return every


def candidates(tunable: Tunable, options: argparse.Namespace) -> list[Configuration]:
    configurations = list(
        itertools.islice(tunable.candidates(), 4 if options.quick else options.most)
    )
    if tunable.library is not None and tunable.library not in configurations:
        configurations.append(tunable.library)
    return configurations


def bind(tunable: Tunable, arguments: Arguments, configuration: Configuration) -> Thunk:
    return find_binder(f"cuda.{tunable.kernel}")({**arguments, "configuration": configuration})


def graph_seconds(thunks: list[Thunk], calls: int, enough: float = math.inf) -> float:
    """Median seconds of one call, of ``calls`` calls in a captured graph; of few replays where
    these take more than ``enough``."""
    graph = torch.cuda.CUDAGraph()
    for thunk in thunks:
        thunk()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for call in range(calls):
            thunks[call % len(thunks)]()
    times: list[float] = []
    for replay in range(REPLAYS + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if replay >= 2:
            times.append(begin.elapsed_time(end) / 1e3 / calls)
        if len(times) == 2 and min(times) > enough:
            break
    return statistics.median(times)


def read_bandwidth(device: torch.device) -> float:
    """Bytes per second that a plain sum over 2 GiB reads."""
    data = torch.ones(1 << 29, device=device)
    out = torch.zeros((), device=device)
    seconds = graph_seconds([lambda: torch.sum(data, 0, out=out)], 4)
    return data.numel() * data.element_size() / seconds


def is_right(
    tunable: Tunable,
    configuration: Configuration,
    device: torch.device,
    generator: torch.Generator,
) -> str:
    """An empty string, or what is wrong with the results on fresh inputs."""
    for _ in range(2):
        arguments = tunable.make(device, generator)
        expected = tunable.reference(arguments)
        thunk = bind(tunable, arguments, configuration)
        thunk()
        first = {name: arguments[name].clone() for name in expected}
        thunk()
        for name, reference in expected.items():
            if not torch.equal(first[name], arguments[name]):
                return f"{name} differs between two calls"
            scale = reference.abs().max().item()
            error = (first[name].double() - reference.double()).abs().max().item()
            if not error <= tunable.tolerance * scale:  # NaN too
                return f"{name} is off by {error:.3g} where the largest entry is {scale:.3g}"
    return ""


def merged(times: list[Measured]) -> Iterator[Configuration]:
    """What was best of each launch, together: read after all of ``times`` are there.

    Of the configurations that differ from another one in the settings of one launch alone (their
    names begin alike, as ``up_`` and ``down_``) the fastest change of each is taken."""
    known = [each.configuration for each in times]
    seen = {json.dumps(each, sort_keys=True) for each in known}
    for base in list(times):
        changes: dict[str, Measured] = {}
        for each in times:
            names = _changed(base.configuration, each.configuration)
            launches = {name.split("_")[0] for name in names}
            if len(launches) == 1 and all("_" in name for name in names) and each.us < base.us:
                launch = launches.pop()
                if launch not in changes or each.us < changes[launch].us:
                    changes[launch] = each
        if len(changes) < 2:
            continue
        together = dict(base.configuration)
        for launch, each in changes.items():
            together |= {
                name: value
                for name, value in each.configuration.items()
                if name.startswith(f"{launch}_")
            }
        text = json.dumps(together, sort_keys=True)
        if text not in seen:
            seen.add(text)
            yield together


def _changed(one: Configuration, other: Configuration) -> list[str]:
    return [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]


def measure(
    tunable: Tunable, options: argparse.Namespace, device: torch.device, deadline: float
) -> tuple[Measured | None, Measured | None]:
    """The best configuration that gives right results, and the library's."""
    generator = torch.Generator(device).manual_seed(int(time.time()))
    footprint = tunable.footprint or tunable.bytes
    copies = max(2, math.ceil(ROTATED_BYTES / footprint))
    operands = [tunable.make(device, generator) for _ in range(copies)]
    # About two milliseconds of calls at 3 TB/s, every copy equally often.
    calls = copies * max(1, round(2e-3 * 3e12 / tunable.bytes / copies))
    times: list[Measured] = []
    waiting = candidates(tunable, options)
    for configuration in itertools.chain(waiting, merged(times)):
        if time.monotonic() > deadline:
            break
        try:
            thunks = [bind(tunable, arguments, configuration) for arguments in operands]
            enough = HOPELESS * min((each.us for each in times), default=math.inf) * 1e-6
            us = graph_seconds(thunks, calls, enough) * 1e6
            times.append(Measured(configuration, us))
            keep_time(options.times, tunable, times[-1])
        except FAILURES as failure:
            reason = (str(failure).splitlines() or [""])[0]
            print(f"  {configuration}: {type(failure).__name__}: {reason}", flush=True)
    times.sort(key=lambda each: each.us)
    if options.verbose:
        for each in times:
            print(f"    {each.us:9.2f} us  {each.configuration}", flush=True)
    library = next((each for each in times if each.configuration == tunable.library), None)
    for each in times:
        wrong = is_right(tunable, each.configuration, device, generator)
        if not wrong:
            return each, library
        print(f"  WRONG {each.configuration}: {wrong}", flush=True)
    return None, library


def keep_time(path: Path | None, tunable: Tunable, measured: Measured) -> None:
    """Append the time of one configuration to a file of JSON lines."""
    if path is None:
        return
    row = {
        "kernel": tunable.kernel,
        "dtype": tunable.dtype_name,
        "key": tunable.key,
        "rows": tunable.rows,
        "us": round(measured.us, 3),
        "configuration": measured.configuration,
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def write(path: Path, device_name: str, tunable: Tunable, configuration: Configuration) -> None:
    """Put one winner into the table at ``path``, which is whole at any time."""
    content: dict[str, Any] = {"device": device_name, "kernels": {}}
    if path.is_file():
        stored = json.loads(path.read_text())
        if stored.get("device") == device_name:
            content = stored
    by_rows = content["kernels"]
    for name in (tunable.kernel, tunable.dtype_name, tunable.key):
        by_rows = by_rows.setdefault(name, {})
    by_rows[str(tunable.rows)] = configuration
    ordered = sorted(by_rows.items(), key=lambda item: int(item[0]))
    by_rows.clear()
    by_rows.update(ordered)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


def compile_part(options: argparse.Namespace, device: torch.device) -> None:
    """Run the candidates of this process's share once: of each shape some, since shapes of one
    kernel share much of what is compiled."""
    part, parts = map(int, options.compile.split("/"))
    generator = torch.Generator(device).manual_seed(part)
    for tunable in all_tunables(options):
        arguments = tunable.make(device, generator)
        for configuration in candidates(tunable, options)[part::parts]:
            try:
                bind(tunable, arguments, configuration)()
                torch.cuda.synchronize()
            except FAILURES:
                continue  # the measurement will say so


def compile_all(options: argparse.Namespace, seconds: float) -> None:
    """Let processes compile all candidates, for at most ``seconds``."""
    command = [sys.executable, "-m", "tuning.tune_cuda", "--output", os.devnull]
    for option in ("only", "rows", "keys", "ranks"):
        values = getattr(options, option)
        command += [f"--{option}", ",".join(map(str, values))] if values else []
    command += ["--quick"] if options.quick else []
    command += ["--most", str(options.most)] if options.most else []
    running = [
        subprocess.Popen([*command, "--compile", f"{part}/{options.processes}"])
        for part in range(options.processes)
    ]
    end = time.monotonic() + seconds
    for process in running:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()


def brief(configuration: Configuration) -> str:
    """gemv 8x512 split 1, 4 warps, 4 stages: the values, and the names where they are unusual."""
    short = {"num_warps": "w", "num_stages": "s", "BLOCK_N": "n", "BLOCK_K": "k", "SPLIT_K": "/"}
    return " ".join(
        str(value) if name == "variant" else f"{short.get(name, name + '=')}{value}"
        for name, value in configuration.items()
    )


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", type=names_of, default=[], help="kernels, by comma")
    parser.add_argument("--rows", type=sizes, default=(), help="rows, by comma")
    parser.add_argument(
        "--keys", type=names_of, default=[], help="sizes, by comma, as tables name them"
    )
    parser.add_argument(
        "--ranks", type=sizes, default=(1,), help="numbers of cards of a model, by comma"
    )
    parser.add_argument("--quick", action="store_true", help="1 and 16 rows, four candidates")
    parser.add_argument("--most", type=int, help="candidates of each shape at most")
    parser.add_argument("--seconds", type=float, default=500.0, help="wall time for everything")
    parser.add_argument("--processes", type=int, default=min(12, os.cpu_count() or 1))
    parser.add_argument("--times", type=Path, help="the time of each candidate, as JSON lines")
    parser.add_argument("--verbose", action="store_true", help="the time of each candidate")
    parser.add_argument("--compile", default="", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main() -> None:
    options = parse()
    began = time.monotonic()
    if not torch.cuda.is_available():
        raise SystemExit("tuning needs an NVIDIA GPU")
    device = torch.device("cuda", 0)
    if options.compile:
        compile_part(options, device)
        return
    deadline = began + options.seconds
    if options.processes > 1:
        compile_all(options, options.seconds * 0.4)
        print(f"compiled in {time.monotonic() - began:.0f} s", flush=True)
    name = torch.cuda.get_device_name(device)
    bandwidth = read_bandwidth(device)
    print(f"{name}, torch {torch.__version__}: a plain sum reads {bandwidth / 1e9:.0f} GB/s")
    print(f"{'kernel':22} {'key':>16} {'rows':>4} {'us':>8} {'GB/s':>6} {'share':>6} "
          f"{'library':>8}  configuration")  # fmt: skip
    for tunable in all_tunables(options):
        if time.monotonic() > deadline:
            print(f"out of time at {tunable.kernel} {tunable.key}, {tunable.rows} rows")
            break
        best, library = measure(tunable, options, device, deadline)
        if best is None:
            print(f"{tunable.kernel:22} {tunable.key:>16} {tunable.rows:>4} nothing works")
            continue
        rate = tunable.bytes / best.us * 1e6
        beside = f"{library.us:8.2f}" if library else " " * 8
        print(f"{tunable.kernel:22} {tunable.key:>16} {tunable.rows:>4} {best.us:8.2f} "
              f"{rate / 1e9:6.0f} {rate / bandwidth:6.1%} {beside}  "
              f"{brief(best.configuration)}", flush=True)  # fmt: skip
        write(options.output, name, tunable, best.configuration)
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()

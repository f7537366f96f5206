"""vLLM over compiled plans beside vLLM as it is, on one device, each row in turn.

    python -m bench.engines --model 9b --artifact 9b.cuda --output 9b.json
    python -m bench.engines --table 9b.json air.json --into docs/performance.md
    python -m bench.engines --model 9b --quick --artifact q.cpu --output q.json   # on a CPU

Both sides are up at once, with random weights of the same spread and the options that
:func:`options_of` lists, in processes of their own, and answer in turn: A B A B. The rows are the
time of a decode step by batch, the time to the first token by length of the prompt, and requests
that arrive at 70 % of what the engine serves without plans. A ratio above 1 means that compiled
plans are faster. Triton compiles kernels at first use, so that a round before those that count is
left out. The artifact is compiled with ``--weights from-engine``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.engines.sides import (
    ENGINE,
    GRAPH_SEQUENCES,
    PLANS,
    Running,
    engine_options,
    most_sequences,
    running,
    write_checkpoint,
)
from bench.engines.table import line_of, tables_of
from bench.engines.work import Traffic
from bench.gpu.gpu_table import between_marks, markdown
from bench.models import gpu_model
from bench.words import numbers_or_none

SHARE = 0.7  # of what the engine sustains without plans
FIRST_MARK, LAST_MARK = "<!-- engines -->", "<!-- end of engines -->"


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.engines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=("9b", "air"))
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--output", type=Path, help="the JSON, written after each row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=numbers_or_none, default=[1, 16, 64, 256])
    parser.add_argument("--firsts", type=numbers_or_none, default=[2048, 8192])
    parser.add_argument("--served", type=int, default=3, help="rounds of requests that arrive")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=96)
    parser.add_argument(
        "--sequences",
        type=int,
        help=f"the most in a step; default: the largest batch, and {GRAPH_SEQUENCES} at least, with"
        " which vLLM makes all of its device graphs",
    )
    parser.add_argument("--cache-gib", type=float, default=24.0)
    parser.add_argument(
        "--with",
        dest="environment",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an environment variable for the side with plans alone",
    )
    parser.add_argument(
        "--traces", type=Path, help="a folder for torch.profiler's files of a few decode steps"
    )
    parser.add_argument("--seconds", type=float, default=520.0, help="what the run may take")
    parser.add_argument("--quick", action="store_true", help="tiny; says nothing of speed")
    parser.add_argument("--table", type=Path, nargs="+", help="print the tables of these and end")
    parser.add_argument("--into", type=Path, help="put them between the marks of this document")
    if "--quick" in words:
        parser.set_defaults(cache_gib=0.05, context=200, firsts=[64], batches=[1, 4], rounds=1)
    options = parser.parse_args(words)
    if options.table is None and None in (options.model, options.artifact, options.output):
        parser.error("--model, --artifact and --output are needed, or --table")
    return options


def options_of(chosen: argparse.Namespace, checkpoint: Path) -> dict[str, Any]:
    """The options of both engines."""
    sequences = chosen.sequences or most_sequences(chosen.batches)
    return engine_options(
        checkpoint,
        chosen.quick,
        longest=512 if chosen.quick else 9216,
        sequences=sequences,
        tokens=max(*chosen.firsts, sequences, 64),
        cache_bytes=int(chosen.cache_gib * (1 << 30)),
    )


def traced(folder: Path | None, side: str) -> dict[str, Any]:
    """The options that have a side write torch.profiler's files, where a folder is given."""
    if folder is None:
        return {}
    place = (folder / side).resolve()
    return {
        "profiler_config": {
            "profiler": "torch",
            "torch_profiler_dir": str(place),
            "torch_profiler_with_stack": False,
        }
    }


class Measuring:
    """The rows of one run, as they come."""

    def __init__(self, sides: list[Running], chosen: argparse.Namespace, results: dict[str, Any]):
        self._sides, self._chosen, self._results = sides, chosen, results
        self._ends = perf_counter() + chosen.seconds

    @property
    def over(self) -> bool:
        """Whether the time of the run is."""
        return perf_counter() > self._ends

    def row(self, what: str, size: int, rounds: int, order: str, **given: Any) -> None:
        """One row: each side in turn, the first ``warm`` rounds of which are left out. Without a
        ``seed`` each round has another one."""
        fixed, warm = given.pop("seed", None), given.pop("warm", 1)
        row: dict[str, Any] = {"what": what, "size": size, ENGINE: [], PLANS: []}
        for number in range(-warm, rounds):
            if self.over:
                row["cut"] = "the time of the run was over"
                break
            for side in self._sides[:: 1 if number % 2 else -1]:
                seed = fixed if fixed is not None else 1000 * size + number
                found = side.ask(order, seed=seed, **given)
                if number >= 0:
                    row[side.name].append(found)
        self._results["rows"].append(row)
        self._write()
        print(line_of(row), flush=True)

    def once(self, what: str, order: str, sides: tuple[str, ...], **given: Any) -> dict[str, Any]:
        """Something that each side does once."""
        quiet = given.pop("quiet", False)
        found = {side.name: side.ask(order, **given) for side in self._sides if side.name in sides}
        self._results[what] = found
        self._write()
        print(what, "" if quiet else json.dumps(found), flush=True)
        return found

    def _write(self) -> None:
        self._chosen.output.write_text(json.dumps(self._results, indent=1), encoding="utf-8")


def measure(chosen: argparse.Namespace) -> None:
    """All rows of a model."""
    model = gpu_model(chosen.model, chosen.quick)
    traffic = Traffic() if not chosen.quick else Traffic(12, 10, 200, 2, 32, 4, 12)
    both = (ENGINE, PLANS)
    vocabulary = int(model.config["vocab_size"])
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(model.config, Path(folder) / chosen.model)
        options = options_of(chosen, checkpoint)
        results: dict[str, Any] = {
            "model": chosen.model,
            "title": model.title,
            "options": {name: value for name, value in options.items() if name != "model"},
            "context": chosen.context,
            "command": " ".join(["python -m bench.engines", *sys.argv[1:]]),
            "traffic": asdict(traffic),
            "rows": [],
        }
        plugins = {PLANS: "glmc,glmc_cpu", ENGINE: "glmc_cpu"}
        asked = {
            name: {**options, **traced(chosen.traces, name), "vocabulary": vocabulary}
            for name in both
        }
        artifact, logs = chosen.artifact.resolve(), chosen.output.parent
        own = dict(each.split("=", 1) for each in chosen.environment)
        with running(asked, artifact, logs, plugins, own) as sides:
            results["start_s"] = {side.name: side.start_s for side in sides}
            print("start", results["start_s"], flush=True)
            run = Measuring(sides, chosen, results)
            run.once("weights", "spread", both)
            for batch in chosen.batches:
                given = {"batch": batch, "context": chosen.context, "steps": chosen.steps}
                run.row("decode", batch, chosen.rounds, "decode", seed=batch, **given)
                if chosen.traces is not None and not run.over:
                    run.once(f"trace {batch}", "trace", both, seed=batch, **given | {"steps": 12})
            for length in chosen.firsts:
                run.row("first token", length, chosen.rounds, "first", length=length)
            if chosen.served:
                given = {"traffic": asdict(traffic)}
                alone = run.once("sustained", "serve", (ENGINE,), rate=None, seed=1, **given)
                rate = alone[ENGINE]["requests"] / alone[ENGINE]["seconds"] * SHARE
                results["rate"] = rate
                given |= {"rate": rate, "warm": 0}
                run.row("served", traffic.requests, chosen.served, "serve", **given)
                del given["warm"]
                if not run.over:
                    run.once("steps", "steps", both, seed=1, quiet=True, **given)
            given = {"batch": 1, "context": chosen.context, "steps": chosen.steps}
            run.once("host", "host", (PLANS,), seed=1, **given)
            run.once("counts", "counts", (PLANS,))


def main(words: list[str]) -> int:
    chosen = arguments(words)
    if chosen.table is None:
        measure(chosen)
        return 0
    text = markdown(tables_of([json.loads(path.read_text()) for path in chosen.table]))
    print(text)
    if chosen.into is not None:
        document = between_marks(chosen.into.read_text(), text, FIRST_MARK, LAST_MARK)
        chosen.into.write_text(document, encoding="utf-8")
    return 0


if __name__ == "__main__":  # the sides import nothing of this module
    sys.exit(main(sys.argv[1:]))

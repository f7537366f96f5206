"""``python -m bench.gpu.timeline``: what a timeline of decode steps costs, and whether it is whole.

An artifact (or ``--model`` with ``--layers`` of random weights, which is compiled) decodes batches
of ``--batches`` greedily, in turn without a timeline and with one; times are those of events of the
device around ``--steps`` steps. The last file of each batch is checked: its kernels all have their
calls, and each call of the plan is once in each step, but for those that launch nothing in any. A
line of JSON a batch is printed; the status is 1 where a file is not whole. On a CPU it runs as well
and says nothing of a device.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

import glmc_runtime
from bench.gpu.gpu_timing import device_times
from bench.words import numbers
from glmc_runtime.format.phases import DECODE, PREFILL
from glmc_runtime.generate.session import Session

WARM, PROMPT, CONTEXT = 4, 256, 64


def decode_times(session: Session, batch: int, steps: int, timeline: Path | None) -> float:
    """Milliseconds a step, by events; the prefill of the sequences is in the timeline, too."""
    vocabulary = session.manifest.model.vocabulary
    sequences = [
        session.sequence([(17 * place + at) % vocabulary for place in range(CONTEXT)])
        for at in range(batch)
    ]

    def run() -> float:
        session.prefill(sequences)
        tokens = [7] * batch
        if not session.greedy:
            times = device_times(
                lambda: session.decode(sequences, tokens), session.device, 1, steps, WARM
            )
            return times[0]
        with session.greedy_steps(sequences, tokens) as greedy:
            return device_times(lambda: next(greedy), session.device, 1, steps, WARM)[0]

    if timeline is None:
        taken = run()
    else:
        with session.timeline(timeline):
            taken = run()
    for sequence in sequences:
        session.release(sequence)
    return taken


def checked(session: Session, file: Path) -> dict[str, Any]:
    """What a file says of itself, and what is wrong with it."""
    data = json.loads(file.read_text())
    events = [event for event in data["traceEvents"] if event["ph"] == "X"]
    steps = {event["args"]["step"]: event for event in events if event["cat"] == "step"}
    calls: dict[int, list[int]] = defaultdict(list)
    kernels: Counter[int] = Counter()
    busy: dict[int, float] = defaultdict(float)
    unknown = 0.0
    for event in events:
        args = event["args"]
        if event["cat"] == "step" or args["step"] is None:
            continue
        busy[args["step"]] += event["dur"]
        if args["call"] is not None:
            calls[args["step"]].append(args["call"])
            kernels[args["step"]] += len(args.get("kernels", ()))
        elif event["cat"] == "other":
            unknown += event["dur"]
    plans = {key.phase: plan for key, plan in session.artifact.plans.items()}
    seen: dict[str, set[int]] = defaultdict(set)
    for number, step in steps.items():
        seen[step["args"]["phase"]].update(calls[number])
    wrong = {
        number: _difference(calls[number], seen[step["args"]["phase"]])
        for number, step in steps.items()
    }
    decode = [number for number, step in steps.items() if step["args"]["phase"] == DECODE.name]
    prefill = [number for number, step in steps.items() if step["args"]["phase"] == PREFILL.name]
    return {
        "attribution": data["glmc"]["attribution"],
        "steps": len(decode),
        "replayed": sum(steps[number]["args"]["replayed"] for number in decode),
        "calls": len(plans[DECODE.name].calls),
        "without_kernels": {
            phase: sorted(set(range(len(plans[phase].calls))) - its) for phase, its in seen.items()
        },
        "kernels": sorted({kernels[number] for number in decode}),
        "device_ms": median(busy[number] for number in decode) / 1e3,
        "prefill_ms": median(busy[number] for number in prefill) / 1e3,
        "unknown_ms": unknown / 1e3,
        "wrong": {number: said for number, said in wrong.items() if said},
        "megabytes": round(file.stat().st_size / 1e6, 2),
    }


def _difference(found: list[int], expected: set[int]) -> str:
    """Calls that a step has too often or, unlike others of its phase, not at all."""
    counts = Counter(found)
    missing = sorted(call for call in expected if not counts[call])
    surplus = [call for call, count in counts.items() if count > 1]
    said = [f"without calls {missing[:8]}"] if missing else []
    return ", ".join([*said, *([f"twice {surplus[:8]}"] if surplus else [])])


def measured(session: Session, batch: int, steps: int, rounds: int, file: Path) -> dict[str, Any]:
    """One batch: both ways in turn, and the last file. ``before_ms`` is, in the first batch, of a
    process that has not been profiled yet: what is loaded for that may stay."""
    decode_times(session, batch, steps, None)
    before = decode_times(session, batch, steps, None)
    plain, timed = [], []
    for _ in range(rounds):
        plain.append(decode_times(session, batch, steps, None))
        timed.append(decode_times(session, batch, steps, file))
    return {
        "batch": batch,
        "before_ms": round(before, 4),
        "ms": round(median(plain), 4),
        "timed_ms": round(median(timed), 4),
        "overhead": round(median(timed) / median(plain) - 1, 4),
        "all_ms": [round(each, 4) for each in (*plain, *timed)],
        **checked(session, file),
    }


def rows(path: Path, batches: tuple[int, ...], steps: int, rounds: int, out: Path) -> Iterator[Any]:
    with glmc_runtime.load(path) as session:
        device = torch.cuda.get_device_name() if session.device.type == "cuda" else "cpu"
        yield {"artifact": path.name, "device": device, "torch": torch.__version__}
        for batch in batches:
            yield measured(session, batch, steps, rounds, out / f"timeline-{batch}.json")


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.timeline", description=__doc__)
    parser.add_argument("artifact", nargs="?", type=Path)
    parser.add_argument("--model", default="glm-4.5-air")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batches", type=numbers, default="1,16")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="where files are kept (default: nowhere)")
    chosen = parser.parse_args(words)
    whole = True
    with tempfile.TemporaryDirectory() as folder:
        path = chosen.artifact
        if path is None:
            from bench.gpu.tensor_parallel import checkpoint, compiled

            source = checkpoint(chosen.model, chosen.layers, Path(folder))
            path = compiled(source, 1, chosen.batches, PROMPT, CONTEXT)
        out = chosen.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        for row in rows(path, chosen.batches, chosen.steps, chosen.rounds, out):
            print(json.dumps(row), flush=True)
            whole &= not row.get("wrong") and row.get("attribution", "exact") == "exact"
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())

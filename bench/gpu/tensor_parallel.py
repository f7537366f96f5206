"""``python -m bench.gpu.tensor_parallel``: decode and prefill of a model on one card and several.

Layers of a preset with random weights, written once as a checkpoint, are compiled for each number
of ranks with ``--weights from-checkpoint``, loaded (a process a rank, nccl) and timed in turn:
decode steps of the greedy loop after a context; prefill of one prompt. The host reads every token
within the time. Prints a row a batch: medians in milliseconds, and how many times faster than one
rank.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

import glmc
import glmc_runtime
from bench.words import numbers
from glmc.presets.catalog import load_preset
from glmc.weights.random_checkpoint import write_random_checkpoint
from glmc_runtime.generate.session import Session

WARM, STEPS, ROUNDS = 8, 32, 5
PREFILLS = 6


def checkpoint(preset: str, layers: int, folder: Path) -> Path:
    """The first layers of a preset with random weights."""
    config = dict(load_preset(preset).config)
    config |= {"num_hidden_layers": layers, "torch_dtype": "bfloat16"}
    path = folder / "checkpoint"
    write_random_checkpoint(path, config)
    return path


def compiled(source: Path, ranks: int, batches: Sequence[int], prompt: int, context: int) -> Path:
    path = source.parent / f"ranks-{ranks}"
    glmc.compile(
        source,
        path,
        target="cuda",
        weights="from-checkpoint",
        tensor_parallel=ranks,
        decode_buckets=tuple(batches),
        prefill_buckets=(prompt,),
        max_context=max(prompt, context + WARM + STEPS * ROUNDS) + 128,
    )
    return path


def random_tokens(session: Session, count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    vocabulary = session.manifest.model.vocabulary
    return torch.randint(0, vocabulary, (count,), generator=generator).tolist()


def decode_ms(session: Session, batch: int, context: int) -> float:
    """A step of the greedy loop: the median over rounds."""
    sequences = [session.sequence(random_tokens(session, context, at)) for at in range(batch)]
    for sequence in sequences:
        session.prefill([sequence])
    first = random_tokens(session, batch, 99)
    times = []
    with session.greedy_steps(sequences, first) as steps:
        for _ in range(WARM):
            next(steps)
        for _ in range(ROUNDS):
            started = perf_counter()
            for _ in range(STEPS):
                next(steps)
            times.append((perf_counter() - started) * 1e3 / STEPS)
    for sequence in sequences:
        session.release(sequence)
    return median(times)


def prefill_ms(session: Session, tokens: int) -> float:
    """A prompt until the host has its next token: the median of those after the first. A session of
    one card enqueues the step and returns logits that are not computed yet."""
    times = []
    for at in range(PREFILLS):
        sequence = session.sequence(random_tokens(session, tokens, at))
        started = perf_counter()
        session.prefill([sequence]).argmax(-1).tolist()
        times.append((perf_counter() - started) * 1e3)
        session.release(sequence)
    return median(times[1:])


def measured(path: Path, batches: Sequence[int], prompt: int, context: int) -> Iterator[float]:
    blocks = 2 + max(batches) * (-(-(context + WARM + STEPS * ROUNDS + 1) // 128) + 1)
    with glmc_runtime.load(path, kv_blocks=blocks + prompt // 128) as session:
        for batch in batches:
            yield decode_ms(session, batch, context)
        yield prefill_ms(session, prompt)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu.tensor_parallel", description=__doc__
    )
    parser.add_argument("--model", default="glm-4-9b-0414")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--ranks", type=numbers, default="1,2")
    parser.add_argument("--batches", type=numbers, default="1,16,64")
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--context", type=int, default=1024)
    chosen = parser.parse_args()
    rows: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = checkpoint(chosen.model, chosen.layers, Path(folder))
        for count in chosen.ranks:
            path = compiled(source, count, chosen.batches, chosen.prompt, chosen.context)
            rows[count] = list(measured(path, chosen.batches, chosen.prompt, chosen.context))
            print(json.dumps({"ranks": count, "ms": rows[count]}), file=sys.stderr, flush=True)
    print(f"{chosen.model}, {chosen.layers} layers, bfloat16, {torch.cuda.get_device_name()}: ms")
    print(f"| | {' | '.join(f'{count} ranks' for count in chosen.ranks)} | x |")
    print(f"|---|{'---|' * (len(chosen.ranks) + 1)}")
    names = [f"decode, batch {batch}, context {chosen.context}" for batch in chosen.batches]
    for at, name in enumerate([*names, f"prefill {chosen.prompt}"]):
        times = [rows[count][at] for count in chosen.ranks]
        shown = " | ".join(f"{each:.3f}" for each in times)
        print(f"| {name} | {shown} | {times[0] / times[-1]:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

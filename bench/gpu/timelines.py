"""Timelines of a decode on the device: Hugging Face's eager code, and ours over the same weights.

    python -m bench.gpu.timelines --model air --batches 1,16 --folder traces

Writes ``eager.B.json`` and ``eager.B.modules.json`` (with the modules that kernels are of, which
takes host time) and ``glmc.B.json`` for each batch B, for ``glmc timeline``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from bench.gpu.eager_timeline import eager_decode
from bench.gpu.gpu_models import Bench
from bench.gpu.gpu_ours import filled, released
from bench.gpu.gpu_peers import Plan
from bench.gpu.gpu_timing import wait
from bench.models import gpu_model
from bench.words import numbers


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu.timelines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=("9b", "air"), required=True)
    parser.add_argument("--batches", type=numbers, default="1,16")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="tiny; says nothing of speed")
    chosen = parser.parse_args(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    context = 96 if chosen.quick else chosen.context
    model = gpu_model(chosen.model, chosen.quick)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / chosen.model  # files of ours say so
        named.mkdir()
        bench = Bench(model, named, device, device.type)
        session = bench.session(
            decode=chosen.batches,
            prefill=(256,),
            max_context=256 if chosen.quick else 2 * context,
            kv_tokens=max(chosen.batches) * (context + 64),
            block_size=32 if chosen.quick else 128,
        )
        for batch in chosen.batches:
            plan = Plan(batch, context, repeats=1, steps=chosen.steps)
            place = chosen.folder / f"glmc.{batch}.json"
            sequences = filled(model, session, batch, plan.first)
            tokens = [5] * batch
            for _ in range(4):
                session.decode(sequences, tokens)
            wait(device)
            with session.timeline(place):
                for _ in range(chosen.steps):
                    session.decode(sequences, tokens)
                wait(device)
            released(session, sequences)
            print(place, flush=True)
            for modules in (False, True):
                name = f"eager.{batch}{'.modules' if modules else ''}.json"
                place = chosen.folder / name
                eager_decode(model, bench.hugging_face, plan, chosen.steps, modules, place)
                print(place, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

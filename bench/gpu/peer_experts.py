"""Distinct experts that a layer reads in a decode step: ours and vLLM's, for the same shapes.

    GLMC_PEER_SITE=DIR python -m bench.gpu.peer_experts --output e.json --models 4.7 --batches 16
    TRITON_INTERPRET=1 GLMC_PEER_SITE=DIR python -m bench.gpu.peer_experts --quick --output q.json

A ratio of times says something only where both sides read as much. vLLM is started to return the
experts that its router chose, which takes time of its own, so no step is timed here. Both sides
have random weights of one spread, but not the same ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench.gpu import gpu_ours
from bench.gpu.gpu_models import Bench
from bench.gpu.gpu_table import Section
from bench.gpu.peer_command import measure_and_write
from bench.gpu.vllm_side import Sizes, lacking, site, vllm_side
from bench.models import GPU_MODELS, BenchModel, gpu_model
from bench.spread import BIAS
from bench.words import sizes, some_of
from glmc_runtime.generate.session import Session

STEPS = 8
"""Of each count: their mean."""


def ours(model: BenchModel, session: Session, batch: int, context: int) -> float:
    """Distinct experts per layer, over layers and steps: of tokens that differ, and of those that
    follow them greedily, all at one place of their sequences."""
    sequences = gpu_ours.filled(model, session, batch, context)
    tokens = gpu_ours.first_tokens(session, batch)
    found = []
    try:
        for _ in range(STEPS):
            ready = gpu_ours.prepared(session, sequences, tokens)
            logits, routed = gpu_ours.traced_logits(session, ready)
            experts = gpu_ours.distinct_experts(routed)
            if experts is None:
                raise RuntimeError(
                    f"{model.title}: no call of a traced decode step writes the ids of experts, "
                    "so that none can be counted"
                )
            found.append(experts)
            tokens = logits.argmax(-1).tolist()[:batch]
    finally:
        gpu_ours.released(session, sequences)
    return sum(found) / len(found)


def counted(options: argparse.Namespace, key: str, folder: Path) -> list[dict[str, Any]]:
    """A row for each batch and context of a model."""
    model, contexts = gpu_model(key, options.quick), options.contexts
    shape = Sizes(options.batches, (1024,), contexts[-1])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    session = Bench(model, folder, device, options.target, options.bias).session(
        decode=shape.batches,
        prefill=shape.prefills,
        max_context=contexts[-1] + 1024,
        kv_tokens=shape.kv_tokens,
        block_size=32 if options.quick else 128,
    )
    rows = []
    log = options.output.with_name(f"{key}.experts.log")
    returned = {"enable_return_routed_experts": True}
    dense = int(model.config["first_k_dense_replace"])
    with vllm_side(model, shape, folder, log, options.quick, returned, options.bias) as side:
        for batch, context in product(shape.batches, contexts):
            row = {
                "model": model.title,
                "bias": options.bias,
                "batch": batch,
                "context": context,
                "vllm": side.ask(
                    "experts",
                    dense_layers=dense,
                    batch=batch,
                    context=context,
                    steps=STEPS,
                    seed=batch,
                )["experts"],
                "glmc": ours(model, session, batch, context),
                "independent": model.expected_experts(batch),
            }
            print(row, flush=True)
            rows.append(row)
    return rows


def table_of(rows: Iterable[Mapping[str, Any]]) -> Section:
    """The table of a page."""
    return Section(
        "Distinct experts that a layer reads",
        ("model", "biases", "batch", "context", "vLLM", "glmc", "independent choices"),
        [
            (
                row["model"],
                f"{row['bias']:g}",
                str(row["batch"]),
                str(row["context"]),
                *(f"{row[key]:.1f}" for key in ("vllm", "glmc", "independent")),
            )
            for row in rows
        ],
    )


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="the JSON")
    routed = [key for key in GPU_MODELS if gpu_model(key, quick=True).routed]
    parser.add_argument(
        "--models", type=some_of(tuple(routed)), default=routed, help=", ".join(routed)
    )
    parser.add_argument("--batches", type=sizes, default=(16,))
    parser.add_argument("--contexts", type=sizes, default=(1024, 8192, 32768))
    parser.add_argument(
        "--bias", type=float, default=BIAS, help="standard deviation of biases, of both sides"
    )
    parser.add_argument("--quick", action="store_true", help="tiny shapes, without a GPU")
    parser.add_argument("--target", default="cuda")
    options = parser.parse_args(words)
    why = lacking(site())
    if why is not None:
        parser.error(why)
    if options.quick:
        options.contexts = (96,)
    return options


def main(words: list[str] | None = None) -> int:
    words = sys.argv[1:] if words is None else words
    options = arguments(words)
    measure_and_write("peer_experts", words, options, counted, table_of)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The GPU benchmark: every bar of the CUDA target, its peers and its floors, in one run.

    python -m bench.gpu.h200 --output results.json                # all parts; a part at a time fits
    python -m bench.gpu.h200 --output a.json --parts moe,correct # better into a lease of 10 minutes
    GLMC_PEER_SITE=DIR python -m bench.gpu.h200 --output v.json --peers vllm --models 9b
    python -m bench.gpu.h200 --table a.json b.json                 # markdown of what was measured
    python -m bench.gpu.h200 --table a.json b.json --into docs/performance.md
    TRITON_INTERPRET=1 python -m bench.gpu.h200 --quick --output q.json # tiny shapes, without a GPU

Decode: GLM-4-9B-0414 with all 40 layers and 12 of the 46 of GLM-4.5-Air, random bfloat16 weights
that all contenders share, caches filled with random keys and values, context 1024. A floor is the
bytes that must be read over the bandwidth of a plain read, or operations over the rate of a large
matrix product, both measured in the same run. Exits with 1 when a check or a part failed.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import tempfile
from pathlib import Path

import torch

from bench.gpu.gpu_results import Machine, Results, clean, load_results
from bench.gpu.gpu_table import between_marks, markdown, sections, show
from bench.gpu.gpu_timing import product_rate, read_bandwidth
from bench.gpu.vllm_side import VLLM, Sizes, lacking, site
from bench.models import GPU_MODELS, gpu_model
from bench.words import sizes, some_of

PARTS = ("correct", "moe", "decode-9b", "decode-air", "prefill", "stages", "long")
PEERS = ("eager", "compile", "max-autotune", "glmc")
ALONE = ("9b", "air")  # models of all parts; the others are measured beside vLLM
BESIDE = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LONG = (32768, 131072)
LONG_QUICK = (96, 160)


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="the JSON, written after each measurement")
    parser.add_argument("--parts", type=some_of(PARTS), default=list(PARTS))
    parser.add_argument("--models", type=some_of(tuple(GPU_MODELS)), default=list(ALONE))
    parser.add_argument("--peers", type=some_of((*PEERS, VLLM)), default=list(PEERS))
    parser.add_argument("--batches", type=sizes, help="default: 1, 16, 64; beside vLLM to 256")
    parser.add_argument("--prefills", type=sizes, default=(512, 2048, 8192), help="beside vLLM")
    parser.add_argument("--context", type=int, default=1024, help="of a decode beside vLLM")
    parser.add_argument("--longs", type=sizes, default=(), help="contexts of 16, beside vLLM")
    parser.add_argument("--rounds", type=int, default=5, help="beside vLLM")
    parser.add_argument("--contexts", type=sizes, help="of part long")
    parser.add_argument("--seconds", type=float, default=540.0, help="what the run may take")
    parser.add_argument("--quick", action="store_true", help="tiny shapes; says nothing of speed")
    parser.add_argument("--target", help="cuda, or cpu to try the benchmark itself")
    parser.add_argument("--table", type=Path, nargs="+", help="print the tables of these and end")
    parser.add_argument("--into", type=Path, help="put them between the marks of this document")
    options = parser.parse_args(words)
    if options.batches is None:
        options.batches = BESIDE if options.peers == [VLLM] else (1, 16, 64)
    others = [key for key in options.models if key not in ALONE]
    if others and options.table is None and options.peers != [VLLM]:
        parser.error(f"{', '.join(others)}: measured beside vLLM only, with --peers {VLLM}")
    if options.table is None and options.output is None:
        parser.error("--output or --table is needed")
    if not torch.cuda.is_available() and options.table is None and not options.quick:
        parser.error("torch sees no CUDA device: only --quick runs here")
    return options


def describe(results: Results, device: torch.device) -> None:
    """Measure the two ceilings and note what the numbers are of."""
    import transformers

    bandwidth = read_bandwidth(device, results.quick)
    rate = product_rate(device, results.quick)
    clean()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    name = (name or "a CPU") + (", tiny shapes" if results.quick else "")
    results.describe(
        Machine(name, bandwidth["best"], rate),
        {
            "device": name,
            "bandwidth": bandwidth["best"],
            "bandwidth_by_reader": bandwidth,
            "rate": rate,
            "torch": torch.__version__,
            "triton": _triton_version(),
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
        },
    )


def _triton_version() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    return str(triton.__version__)


def measure(results: Results, options: argparse.Namespace, folder: Path) -> None:
    """All parts that were asked for, in an order in which little is lost when time runs out."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    target = options.target or "cuda"
    describe(results, device)
    if VLLM in options.peers:
        options.peers.remove(VLLM)
        _beside(results, options, folder, device, target)
        if not options.peers:
            return
    if "correct" in options.parts:
        from bench.soak.gpu_correct import correct

        results.attempt("correct", lambda: correct(results, folder / "tiny", device, target))
    if "moe" in options.parts:
        from bench.gpu.gpu_moe import moe

        results.attempt("moe", lambda: moe(results, device, target))
    for key in options.models:
        parts = _parts_of(key, options.parts)
        if parts:
            results.attempt(
                f"model {key}",
                lambda key=key, parts=parts: _model(
                    results, options, folder, key, parts, device, target
                ),
            )


def _beside(
    results: Results, options: argparse.Namespace, folder: Path, device: torch.device, target: str
) -> None:
    """Every model beside vLLM."""
    from bench.gpu.beside_vllm import beside_vllm
    from bench.gpu.gpu_models import Bench

    why = lacking(site())
    if why is not None:
        results.leave_out(VLLM, why)
        return
    sizes = Sizes(
        options.batches, options.prefills, options.context, options.rounds, longs=options.longs
    )
    for key in options.models:
        place = folder / f"{key}.beside"

        def work(key: str = key, place: Path = place) -> None:
            bench = Bench(gpu_model(key, results.quick), place, device, target)
            beside_vllm(results, bench, sizes, place)

        results.attempt(f"{key} beside vllm", work)


def _parts_of(key: str, parts: list[str]) -> set[str]:
    measured_parts: set[str] = {part for part in ("prefill", "stages") if part in parts}
    if f"decode-{key}" in parts:
        measured_parts.add("decode")
    if key == "9b" and "long" in parts:
        measured_parts.add("long")
    return measured_parts


def _model(
    results: Results,
    options: argparse.Namespace,
    folder: Path,
    key: str,
    parts: set[str],
    device: torch.device,
    target: str,
) -> None:
    from bench.gpu import gpu_decode, gpu_stages
    from bench.gpu.gpu_models import Bench

    bench = Bench(gpu_model(key, results.quick), folder / key, device, target)
    batches, session = options.batches, None
    if "glmc" in options.peers and parts & {"decode", "prefill", "stages"}:
        # Before the peers: the model's parameters become views of the merged tensors.
        session = results.attempt(
            f"{key} compile and load",
            lambda: gpu_decode.make_session(bench, batches, results.quick),
        )
    eager: dict[int, torch.Tensor] = {}
    others = [peer for peer in options.peers if peer != "glmc"]
    if "decode" in parts and "eager" in others:
        eager = gpu_decode.hugging_face(results, bench, ["eager"], batches)
    if "decode" in parts and session is not None:
        gpu_decode.ours(results, bench, session, batches, eager)
    if "stages" in parts and session is not None:
        for batch in batches:
            plan = gpu_decode.plan_of(batch, results.quick)
            results.attempt(
                f"{key} stages {batch}",
                lambda plan=plan: gpu_stages.stages(results, bench.model, session, plan),
            )
    if "prefill" in parts:
        gpu_decode.prefill(results, bench, session, options.peers)
    session = None
    clean()
    if "long" in parts and "glmc" in options.peers:
        contexts = options.contexts or (LONG_QUICK if results.quick else LONG)
        results.attempt(f"{key} long", lambda: gpu_decode.long_context(results, bench, contexts))
    compiled = [peer for peer in others if peer != "eager"]
    if "decode" in parts and compiled:
        # Last: their compiles take minutes, and leave the least behind when time runs out.
        gpu_decode.hugging_face(results, bench, compiled, batches, eager)


def main(words: list[str] | None = None) -> int:
    words = sys.argv[1:] if words is None else words
    options = arguments(words)
    if options.table is not None:
        text = markdown(sections(load_results(options.table)))
        if options.into is None:
            print(text)
        else:
            options.into.write_text(between_marks(options.into.read_text("utf-8"), text), "utf-8")
        return 0
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    results = Results(options.output, options.seconds, options.quick)
    shown = [Path(word).name if "/" in word else word for word in words]
    results.data["command"] = "python -m bench.gpu.h200 " + shlex.join(shown)
    with tempfile.TemporaryDirectory() as folder:
        results.attempt("run", lambda: measure(results, options, Path(folder)))
    results.flush()
    if "machine" in results.data:
        show(sections([results.data]))
    missed = [item for item in results.data["measurements"] if item["met"] is False]
    for item in missed:
        print(f"bar missed: {item['model']} {item['what']} {item['size']}: {item['ms']:.4f} ms")
    return int(results.failed)


if __name__ == "__main__":
    sys.exit(main())

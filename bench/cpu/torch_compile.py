"""``torch.compile`` of a decode step: backend "kunlun" beside eager and Inductor.

    python -m bench.cpu.torch_compile                 # 1.2 B dense and 2.5 B MoE, bfloat16, batch 1
    python -m bench.cpu.torch_compile --device cuda # on a GPU, beside Inductor's graphs
    python -m bench.cpu.torch_compile --quick         # models of a few million parameters

Each contender has a process of its own, with Inductor's caches empty: a static cache, an eager
prefill of 64 tokens, then the compiled forward, step by step. Prints the median time per step of
all rounds, its ratio to eager, the floor (weight bytes that a step must read over the memory
bandwidth of the same run), the seconds of the first call, compile included, and the memory beside
the weights: of the process on a CPU, of the device on a GPU. Rounds are interleaved.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.cpu.peers.eager import load_eager
from bench.cpu.work import LONGEST, bandwidth, prompts
from bench.gpu.gpu_timing import read_bandwidth, wait
from bench.hugging_face import with_cache
from bench.models import BenchModel, bench_models
from glmc.weights.random_checkpoint import write_random_checkpoint

ON_CPU = ("eager", "inductor", "inductor max-autotune", "kunlun")
ON_CUDA = (
    "eager",
    "inductor",
    "inductor reduce-overhead",
    "inductor max-autotune",
    "kunlun",
)
# Calls before those that are timed. A device graph is captured at the third over one cache,
# Inductor's at the second.
_WARM = 4
_MIB = 1 << 20


def _compiled(model: Any, contender: str) -> Any:
    if contender == "eager":
        return model.forward
    if contender == "kunlun":
        return torch.compile(model.forward, backend="kunlun", dynamic=False, fullgraph=True)
    mode = contender.partition(" ")[2] or "default"
    return torch.compile(model.forward, mode=mode, dynamic=False, fullgraph=True)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _most_resident() -> int:
    """Of this process since it began; ``getrusage`` would count its parent's as well."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _memory(device: torch.device) -> tuple[int, int]:
    """Bytes now, and at most so far."""
    if device.type == "cuda":  # the pools of device graphs are reserved
        return torch.cuda.memory_reserved(device), torch.cuda.max_memory_reserved(device)
    return _resident(), _most_resident()


@torch.no_grad()
def work(
    checkpoint: Path, contender: str, batch: int, steps: int, device: torch.device
) -> dict[str, float]:
    """One contender, in this process: seconds of the first call and per step, bytes of memory."""
    import transformers

    model = load_eager(checkpoint).to(device)
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    cache = transformers.StaticCache(config=model.config, max_cache_len=LONGEST)
    ids = torch.tensor(prompts(batch, model.config.vocab_size), device=device)
    logits = model(ids, **with_cache(cache)).logits
    forward = _compiled(model, contender)
    times = []
    for _ in range(steps + _WARM):
        tokens = logits[:, -1:].argmax(-1)
        if contender.startswith("inductor"):
            torch.compiler.cudagraph_mark_step_begin()
        wait(device)
        started = time.perf_counter()
        logits = forward(input_ids=tokens, **with_cache(cache)).logits
        wait(device)
        times.append(time.perf_counter() - started)
    now, peak = _memory(device)
    return {
        "first": times[0],
        "step": statistics.median(times[_WARM:]),
        "resident": now - weights,
        "peak": peak - weights,
    }


def _in_process(
    checkpoint: Path, contender: str, batch: int, steps: int, device: torch.device
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as caches:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "bench.cpu.torch_compile", "--worker", contender),
                *(str(checkpoint), str(batch), str(steps), "--device", device.type),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "TORCHINDUCTOR_CACHE_DIR": caches,
                "TRITON_CACHE_DIR": f"{caches}/triton",
            },
        )
    if done.returncode:  # what it said is on stderr
        raise SystemExit(f"{contender} ended with status {done.returncode}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _bandwidth(device: torch.device, quick: bool) -> float:
    if device.type == "cpu":
        return bandwidth(time.perf_counter)
    best = read_bandwidth(device, quick)["best"]
    torch.cuda.empty_cache()
    return best


def _where(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} threads"


def bench(
    model: BenchModel,
    contenders: list[str],
    batch: int,
    steps: int,
    rounds: int,
    folder: Path,
    device: torch.device,
    quick: bool,
) -> Table:
    """All rounds of one model as a table."""
    checkpoint = model.checkpoint or folder / "checkpoint"
    if model.checkpoint is None:
        write_random_checkpoint(checkpoint, model.config)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    floors = []
    for _ in range(rounds):
        floors.append(model.weight_bytes(batch) / _bandwidth(device, quick))
        for name in contenders:
            runs[name].append(_in_process(checkpoint, name, batch, steps, device))
    table = Table(
        title=f"{model.title}, bfloat16, batch {batch}, {_where(device)}, "
        f"torch {torch.__version__}, {rounds} rounds of {steps} steps, "
        f"load average {os.getloadavg()[0]:.1f}"
    )
    for title in ("", "ms/step", "x eager", "floor", "first call s", "MiB beside weights", "peak"):
        table.add_column(title, justify="right")
    middle = {
        name: {key: statistics.median(run[key] for run in figures) for key in figures[0]}
        for name, figures in runs.items()
    }
    floor = statistics.median(floors)
    eager = middle.get("eager", {}).get("step")
    for name, figures in middle.items():
        table.add_row(
            name,
            f"{figures['step'] * 1e3:.2f}",
            f"{eager / figures['step']:.2f}" if eager else "",
            f"{floor / figures['step']:.0%}",
            f"{figures['first']:.1f}",
            f"{figures['resident'] / _MIB:.0f}",
            f"{figures['peak'] / _MIB:.0f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--worker", nargs=4, metavar=("NAME", "CHECKPOINT", "BATCH", "STEPS"))
    parser.add_argument("--quick", action="store_true")
    models = [model.key for model in bench_models(quick=True)]
    parser.add_argument("--models", nargs="+", choices=models, default=["dense", "moe"])
    parser.add_argument("--contenders", nargs="+", help=f"of {', '.join(ON_CUDA)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.worker:
        name, checkpoint, batch, steps = arguments.worker
        print(json.dumps(work(Path(checkpoint), name, int(batch), int(steps), device)))
        return
    contenders = arguments.contenders or list(ON_CUDA if device.type == "cuda" else ON_CPU)
    for model in bench_models(arguments.quick):
        if model.key not in arguments.models:
            continue
        with tempfile.TemporaryDirectory() as folder:
            table = bench(
                model,
                contenders,
                arguments.batch,
                arguments.steps,
                arguments.rounds,
                Path(folder),
                device,
                arguments.quick,
            )
        Console(width=120).print(table)


if __name__ == "__main__":
    main()

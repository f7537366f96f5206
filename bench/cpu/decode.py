"""Tokens a second on the CPU: glmc beside eager Hugging Face, its compiled forms and llama.cpp.

    python -m bench.cpu.decode                  # 1.2 B dense and 2.5 B MoE, batch 1, 4, 16
    python -m bench.cpu.decode --quick          # models of a few million parameters
    python -m bench.cpu.decode --peers eager,glmc,llama.cpp --llama-cpp DIR
    python -m bench.cpu.decode --before DIR     # glmc of another checkout is a side, too
    python -m bench.cpu.decode --check --dtype float32  # whether all compute the same model

Each side is a process of its own and stays up; they take turns in blocks of a few steps, in an
order that swaps each time, with the same random tokens: a prompt of 64, then decode. A ratio is
that of two blocks of one round, so that what else the machine does meets both. The weight bytes
that a step must read are held against a plain read in the same round. Prints medians and quartiles;
seconds from start to first token in parts; memory, of which mapped files are in the peak alone; and
how much of a processor each side used while it waited for its turn, which must be next to nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from rich.console import Console

from bench.cpu.paired import Turns
from bench.cpu.peers import BEFORE, EAGER, LLAMA_CPP, MODULES, OURS
from bench.cpu.peers.llama_cpp import lacking
from bench.cpu.same import differences, shown
from bench.cpu.sides import Setting, sources, up
from bench.cpu.table import speeds, starts, versions
from bench.cpu.work import PROMPT, Work, random_tokens
from bench.models import BenchModel, bench_models, published_models
from bench.words import names_of, numbers_or_none, some_of
from glmc.presets.catalog import preset_names

_WIDTH = 160


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.cpu.decode",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="models of a few million parameters")
    parser.add_argument(
        "--models", type=some_of(_models()), default="dense,moe", help="also: tiny-dense, presets"
    )
    parser.add_argument("--peers", type=names_of, default="eager,glmc,llama.cpp", help=_PEERS)
    parser.add_argument("--batches", type=numbers_or_none, default="1,4,16")
    parser.add_argument(
        "--prefills", type=numbers_or_none, default="256,1024", help="tokens of a prompt"
    )
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=20, help="blocks of each side")
    parser.add_argument("--prefill-rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="of a block")
    parser.add_argument("--starts", type=int, default=3, help="of each side")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--llama-cpp",
        type=Path,
        default=os.environ.get("GLMC_PEER_LLAMA_CPP"),
        metavar="DIR",
        help="an unpacked source package of llama-cpp-python, built in its folder build",
    )
    parser.add_argument("--before", type=Path, metavar="DIR", help="another checkout of glmc")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="use and leave checkpoints and GGUF there"
    )
    parser.add_argument("--check", action="store_true", help="compare logits in place of times")
    parser.add_argument(
        "--cpu-clock",
        action="store_true",
        help="processor time of each side, for a machine with other load; one thread only",
    )
    chosen = parser.parse_args(words)
    if chosen.cpu_clock and chosen.threads != 1:
        parser.error("--cpu-clock counts all threads together: it needs --threads 1")
    if chosen.before is not None and BEFORE not in chosen.peers:
        chosen.peers.append(BEFORE)
    unknown = [name for name in chosen.peers if name not in MODULES]
    if unknown or (BEFORE in chosen.peers and chosen.before is None):
        parser.error(f"no such peer: {', '.join(unknown) or BEFORE}; {_PEERS}")
    return chosen


def _models() -> tuple[str, ...]:
    return (*(model.key for model in bench_models(quick=True)), *preset_names())


_PEERS = f"of {', '.join(MODULES)}; {BEFORE} is the one that --before names"


def present(names: Sequence[str], tree: Path | None) -> list[str]:
    """The peers that there are; llama.cpp is left out with a word where it is not."""
    why = lacking(tree) if LLAMA_CPP in names else None
    if why is None:
        return list(names)
    print(f"{LLAMA_CPP} is left out: {why} (docs/numbers.md)", file=sys.stderr)
    return [name for name in names if name != LLAMA_CPP]


def bench(
    model: BenchModel, names: list[str], setting: Setting, chosen: argparse.Namespace, folder: Path
) -> bool:
    """Print the tables of one model; whether all sides compute the same, where that is asked."""
    console = Console(width=_WIDTH)
    vocabulary = int(model.config["vocab_size"])
    prompt = random_tokens(0, 1, PROMPT, vocabulary)[0]
    made = sources(names, model, folder, setting)
    with (
        tempfile.TemporaryDirectory() as sockets,
        up(made, prompt, setting, Path(sockets), chosen.starts) as (sides, took),
    ):
        if chosen.check:
            found = differences(sides, vocabulary)
            console.print(shown(names[0], found, setting.dtype, model.title))
            return all(each.is_same(setting.dtype) for each in found)
        clock = time.process_time if chosen.cpu_clock else time.perf_counter
        turns = Turns(sides, vocabulary, clock)
        rows = []
        for work in works(chosen):
            able = [
                side.name
                for side in sides
                if work.kind == "decode" or took[side.name][0]["prefills"]
            ]
            rows.append(turns.measure(work, able))
            rates = ", ".join(f"{name} {rows[-1].rates(name).median:.1f}" for name in able)
            print(f"{model.key} {work.title}: {rates} tokens/s", file=sys.stderr)
        base = OURS if OURS in names else names[0]
        title = (
            f"{model.title}, {setting.dtype}, {setting.threads} threads, {chosen.rounds} rounds of "
            f"{chosen.steps} steps, {chosen.prefill_rounds} of prefill, "
            f"load average {os.getloadavg()[0]:.1f}"
        )
        console.print(speeds(model, rows, base, setting.dtype, title))
        console.print(starts(took, turns.uses))
        console.print(versions(took), highlight=False)
    return True


def works(chosen: argparse.Namespace) -> list[Work]:
    """The rows of the table."""
    return [
        *(Work("decode", batch, chosen.rounds, chosen.steps) for batch in chosen.batches),
        *(Work("prefill", tokens, chosen.prefill_rounds) for tokens in chosen.prefills),
    ]


def main(words: Sequence[str]) -> int:
    chosen = arguments(words)
    torch.set_num_threads(chosen.threads)
    names = present(chosen.peers, chosen.llama_cpp)
    if not names:
        return 1
    trees = {LLAMA_CPP: chosen.llama_cpp, BEFORE: chosen.before}
    setting = Setting(
        chosen.dtype,
        chosen.threads,
        "processor" if chosen.cpu_clock else "wall",
        {name: tree.resolve() for name, tree in trees.items() if tree is not None},
        exact=chosen.check,
    )
    if chosen.check:
        names.sort(key=lambda name: name != EAGER)  # the others are held against it
        chosen.starts = 1
    same = True
    for model in (*bench_models(chosen.quick), *published_models(chosen.models)):
        if model.key not in chosen.models:
            continue
        keep = chosen.keep
        with nullcontext(str(keep)) if keep else tempfile.TemporaryDirectory() as folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            same &= bench(model, names, setting, chosen, Path(folder).resolve())
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

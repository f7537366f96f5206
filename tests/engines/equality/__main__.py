"""``python -m tests.engines.equality --engine vllm|sglang``: tokens of an engine over our plans.

Both shipped models and six random configs in float32: 32 ragged prompts, 64 tokens, sent at once
and one after the other, in chunks, with prefixes from the cache and with requests that are taken
back. Tokens are held against Hugging Face and against the engine's own model class; a text is left
out from where it parts with the two best logits within 1e-3. Run it in the engine's environment,
with ``GLMC_COMPILER`` for the interpreter that has glmc. For a machine with a GPU:

    python -m tests.engines.equality --engine vllm --target cuda --ask asked.json      # here
    python -m tests.engines.equality.child vllm with asked.json with.json              # there,
    python -m tests.engines.equality.child vllm without asked.json without.json        # and
    python -m tests.engines.equality --engine vllm --target cuda --answered FOLDER     # here
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

from tests.engines.equality.measure import PLANS, judged_rows, names, rows, subjects
from tests.engines.equality.report import NOTHING
from tests.engines.equality.result import read_results, write
from tests.engines.equality.traffic import TEXTS


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.engines.equality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--engine", choices=("vllm", "sglang"), required=True)
    parser.add_argument("--only", help="models of these names, with commas between them")
    parser.add_argument("--texts", type=int, default=TEXTS)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--target", default="cpu", help="what the artifacts are compiled for")
    parser.add_argument("--ask", type=Path, help="only write what is to be asked")
    parser.add_argument("--answered", type=Path, help="a folder with with.json and without.json")
    return parser.parse_args()


def main() -> int:
    chosen, started, faults = options(), perf_counter(), 0
    only = chosen.only.split(",") if chosen.only else names()
    first = second = NOTHING
    asked = subjects(only, chosen.texts, chosen.tokens, chosen.target)
    if chosen.ask is not None:
        write(chosen.ask, asked)
        return 0
    if chosen.answered is None:
        found = rows(chosen.engine, asked)
    else:
        answers = (read_results(chosen.answered / f"{plans}.json") for plans in PLANS)
        found = judged_rows(asked, *answers)
    for row in found:
        first, second = first + row.hugging_face, second + row.without
        faults += len(row.faults)
        print(row, *(f"FAULT: {fault}" for fault in row.faults), sep="\n  ", flush=True)
    print(f"all beside Hugging Face:     {first}")
    print(f"all beside the engine's own: {second}")
    print(f"{faults} faults, {perf_counter() - started:.0f} s")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())

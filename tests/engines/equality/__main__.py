"""``python -m tests.engines.equality --engine vllm|sglang``: tokens of an engine over our plans.

Both shipped models and six random configs in float32: 32 ragged prompts, 64 tokens, sent at once
and one after the other, in chunks, with prefixes from the cache and with requests that are taken
back. Tokens are held against Hugging Face and against the engine's own model class; a text is left
out from where it parts with the two best logits within 1e-3. Run it in the engine's environment,
with ``GLMC_COMPILER`` for the interpreter that has glmc.
"""

from __future__ import annotations

import argparse
import sys
from time import perf_counter

from tests.engines.equality.measure import names, rows, subjects
from tests.engines.equality.report import NOTHING
from tests.engines.equality.traffic import TEXTS


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.engines.equality", description=__doc__)
    parser.add_argument("--engine", choices=("vllm", "sglang"), required=True)
    parser.add_argument("--only", help="models of these names, with commas between them")
    parser.add_argument("--texts", type=int, default=TEXTS)
    parser.add_argument("--tokens", type=int, default=64)
    return parser.parse_args()


def main() -> int:
    chosen, started, faults = options(), perf_counter(), 0
    only = chosen.only.split(",") if chosen.only else names()
    first = second = NOTHING
    for row in rows(chosen.engine, subjects(only, chosen.texts, chosen.tokens)):
        first, second = first + row.hugging_face, second + row.without
        faults += len(row.faults)
        print(row, *(f"FAULT: {fault}" for fault in row.faults), sep="\n  ", flush=True)
    print(f"all beside Hugging Face:     {first}")
    print(f"all beside the engine's own: {second}")
    print(f"{faults} faults, {perf_counter() - started:.0f} s")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())

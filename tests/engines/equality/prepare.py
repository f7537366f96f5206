"""``python -m tests.engines.equality.prepare FOLDER TARGET [NAME...]``: checkpoints and artifacts.

It runs in the interpreter that has glmc. Without names it lists those that there are.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from glmc.cli.main import main as glmc
from tests.e2e.grid import write_checkpoint
from tests.e2e.many_cards import MODELS, SHIPPED, Drawn, drawn
from tests.engines.equality.traffic import BLOCK, CONTEXT, DECODE, PREFILL

CONFIGS = 6


def configs() -> list[Drawn]:
    """Random configs; vLLM's own class of a mixture of experts does not know tied embeddings."""
    fit = [
        each
        for each in drawn(4 * CONFIGS)
        if not (each.routed and each.fields["tie_word_embeddings"])
    ]
    return fit[:CONFIGS]


def prepare(name: str, folder: Path, target: str) -> int:
    """Write the checkpoint of a random config, and compile it in float32."""
    checkpoint = MODELS / name
    if name not in SHIPPED:
        each = next(each for each in configs() if each.name == name)
        checkpoint = folder / name / "checkpoint"
        write_checkpoint(each, checkpoint, torch.float32)  # type: ignore[arg-type]
    options = [
        f"--output={folder / name / 'artifact'}.{target}",
        "--if-changed",
        "--force",
        "--quiet",
    ]
    options += [f"--block-size={BLOCK}", f"--max-context={CONTEXT}"]
    options += ["--prefill-buckets=" + ",".join(map(str, PREFILL))]
    options += ["--decode-buckets=" + ",".join(map(str, DECODE))]
    return glmc(["compile", str(checkpoint), f"--target={target}", "--dtype=float32", *options])


def main() -> int:
    folder, target, names = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if not names:
        print(*SHIPPED, *(each.name for each in configs()), sep="\n")
    return max((prepare(name, folder, target) for name in names), default=0)


if __name__ == "__main__":
    sys.exit(main())

"""Train one of the small models shipped under ``models/``, in minutes on one CPU core.

    python tools/train_tiny.py moe
    python tools/train_tiny.py dense

The corpus is gathered from the machine at run time; see ``tiny/corpus.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from tiny.card import Run, write_card
from tiny.checkpoint import measure, save
from tiny.corpus import gather_corpus
from tiny.models import Kind, build_model
from tiny.routing import Balance
from tiny.tokenizer import encode_documents, stop_ids, train_tokenizer
from tiny.training import Settings, train

MODELS = Path(__file__).resolve().parent.parent / "models"
STEPS = {Kind.MOE: 5000, Kind.DENSE: 3200}


def main(
    kind: Annotated[Kind, typer.Argument(help="Which model to train.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write; models/tiny-KIND.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and of the order of the text.")] = 45,
    steps: Annotated[int, typer.Option(help="Steps; 0 is the shipped model's number.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Gather the corpus, train tokenizer and model, save both with a model card."""
    console = Console(stderr=True)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    settings = Settings(seed=seed, steps=steps or STEPS[kind])
    folder = out or MODELS / f"tiny-{kind.value}"

    corpus = gather_corpus()
    tokenizer = train_tokenizer(corpus.training)
    documents = encode_documents(tokenizer, corpus.training)
    held_out = encode_documents(tokenizer, [d for d in corpus.held_out if not d.question])
    tokens = sum(map(len, documents))
    console.print(f"corpus {corpus.size():,} bytes, {tokens:,} tokens, sha256 {corpus.sha256()}")

    model = build_model(kind, stop_ids(tokenizer))
    balance = Balance(model) if kind is Kind.MOE else None
    outcome = train(model, documents, settings, balance, console.print)
    save(model, tokenizer, folder)
    measured = measure(folder, held_out)
    card = write_card(Run(kind, settings, threads, corpus, tokens, outcome, measured))
    (folder / "README.md").write_text(card, encoding="utf-8")
    console.print(f"held-out loss {measured.held_out_loss:.3f}; wrote {folder}")


if __name__ == "__main__":
    typer.run(main)

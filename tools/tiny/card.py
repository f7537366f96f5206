"""The model card: measured numbers only, written by the run that made the model."""

from __future__ import annotations

import math
import platform
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from tiny.checkpoint import SAMPLE_TOKENS, Measured
from tiny.corpus import HELD_OUT_MODULES, Corpus
from tiny.models import Kind
from tiny.tokenizer import VOCAB_SIZE
from tiny.training import SEQUENCE_LENGTH, Outcome, Settings

SUMMARY = {
    Kind.MOE: (
        "tiny-moe",
        "`Glm4MoeForCausalLM` in the manner of GLM-4.5: one dense layer, three layers with 16 "
        "routed experts (top 4) and a shared one, sigmoid gate with a trained correction bias, "
        "per-head norm of q and k, half-split partial rotary embedding, grouped-query attention "
        "(6 heads, 2 kv heads), untied embeddings.",
    ),
    Kind.DENSE: (
        "tiny-dense",
        "`Glm4ForCausalLM` in the manner of GLM-4-0414: three layers with norms before and after "
        "each block, interleaved partial rotary embedding, fused gate and up projection, biases on "
        "q, k and v, grouped-query attention (4 heads, 2 kv heads), untied embeddings.",
    ),
}

LICENCE = """\
The weights may be used under the licence of this repository. The training text is not part of the
repository. It was: docstrings and language reference of Python (Python Software Foundation
licence) and the texts of free licences, which may be copied verbatim. The model repeats passages
of them, licence texts above all; such passages stay under the terms of their sources."""

LIMITS = """\
* It imitates its training text; it knows nothing and answers nothing correctly but by chance.
  Use it to test software, not to produce text.
* Trained on rows of {length} tokens; longer contexts run (up to 2048) but were never trained.
* `<|system|>` and `<|observation|>` never occur in the training text; chat occurs only as single
  turns made from docstrings.
* Another Python version or other licence files give another corpus, tokenizer and model; another
  CPU, thread count or version of torch gives other low-order bits and so another model."""


@dataclass(frozen=True)
class Run:
    """All that the card reports about one run."""

    kind: Kind
    settings: Settings
    threads: int
    corpus: Corpus
    corpus_tokens: int
    outcome: Outcome
    measured: Measured


def write_card(run: Run) -> str:
    """The text of README.md."""
    name, summary = SUMMARY[run.kind]
    parts = [
        f"# {name}",
        _paragraph(summary),
        _paragraph(
            f"Stock class of transformers {version('transformers')}; bf16 weights in Hugging Face "
            "layout. Made for tests of `glmc`: small enough to ship, real enough that a wrong "
            "kernel shows in the text it writes."
        ),
        _training(run),
        _result(run),
    ]
    if run.measured.routing:
        parts.append(_routing(run))
    parts += [
        _samples(run),
        f"## Licence remarks\n\n{LICENCE}",
        f"## Limits\n\n{LIMITS.format(length=SEQUENCE_LENGTH)}",
    ]
    return "\n\n".join(parts) + "\n"


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def _training(run: Run) -> str:
    settings, corpus = run.settings, run.corpus
    sources = ", ".join(f"{name} {size:,}" for name, size in corpus.bytes_by_source().items())
    rows = {
        "command": (
            f"`python tools/train_tiny.py {run.kind.value} --seed {settings.seed} "
            f"--steps {settings.steps} --threads {run.threads}`"
        ),
        "versions": f"Python {platform.python_version()}, torch {version('torch')}, "
        f"transformers {version('transformers')}, tokenizers {version('tokenizers')}",
        "machine": f"{_processor()}, {run.threads} thread(s), fp32",
        "corpus": f"{corpus.size():,} bytes ({sources}), {run.corpus_tokens:,} tokens",
        "corpus sha256": f"`{corpus.sha256()}`",
        "held out": ", ".join(f"`{module}`" for module in sorted(HELD_OUT_MODULES)),
        "optimiser": f"AdamW, peak rate {settings.peak_rate}, weight decay "
        f"{settings.weight_decay}, {settings.batch} rows of {SEQUENCE_LENGTH} tokens a step",
        "trained": f"{settings.steps} steps, {run.outcome.tokens:,} tokens, "
        f"{run.outcome.seconds:.0f} s",
    }
    return "## How it was made\n\n" + _table(("", ""), list(rows.items()))


def _result(run: Run) -> str:
    measured = run.measured
    rows = {
        "parameters": f"{measured.parameters:,}",
        "`model.safetensors`": f"{measured.weight_bytes:,} bytes",
        "training loss, mean of the last twentieth of the steps": f"{run.outcome.last_loss:.3f}",
        f"held-out loss, saved bf16 weights, {measured.held_out_tokens:,} tokens": (
            f"{measured.held_out_loss:.3f}"
        ),
        f"for comparison: ln({VOCAB_SIZE}), a uniform guess": f"{math.log(VOCAB_SIZE):.3f}",
    }
    return "## Result\n\nLosses in nats per token.\n\n" + _table(("", ""), list(rows.items()))


def _routing(run: Run) -> str:
    rows = [
        (
            str(layer.layer),
            f"{layer.smallest_share:.2%}",
            f"{layer.largest_share:.2%}",
            f"{layer.entropy:.4f}",
            f"{layer.changed_by_bias:.1%}",
            f"{layer.bias_range[0]:+.3f} .. {layer.bias_range[1]:+.3f}",
        )
        for layer in run.measured.routing
    ]
    header = (
        "layer",
        "least used expert",
        "most used expert",
        "entropy / ln 16",
        "tokens whose experts the bias changes",
        "correction bias",
    )
    return (
        "## Routing on the held-out text\n\n"
        + _paragraph(
            "A uniform gate would give each expert 6.25% and an entropy ratio of 1. The bias was "
            f"moved by at most {run.settings.bias_rate} a step against the sign of the load's "
            "excess; there is no auxiliary loss."
        )
        + "\n\n"
        + _table(header, rows)
    )


def _samples(run: Run) -> str:
    blocks = [
        f"Prompt:\n\n```text\n{prompt.rstrip()}\n```\n\nContinuation:\n\n```text\n{text}\n```"
        for prompt, text in run.measured.samples
    ]
    title = f"## Greedy continuations, at most {SAMPLE_TOKENS} tokens, bf16"
    return "\n\n".join([title, *blocks])


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _processor() -> str:
    """Name of the CPU as the system gives it; Linux tells more than ``platform`` does."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except FileNotFoundError:
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()

"""``python -m tests.e2e.many_cards``: greedy tokens on any number of ranks, beside Hugging Face's.

Both shipped models and random configs, dealt by width and by expert, on cpu and on the emulator
under each profile, in float32: 16 ragged prompts, 64 tokens, prompts cut into chunks. A line for
each: texts compared, tokens that differ, and tokens left out since a text parts from Hugging Face's
where the two best logits lie within 1e-3.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from tests.e2e.build import CHUNKED, PLACES, Place
from tests.e2e.grid import MAX_CONTEXT, write_checkpoint
from tests.e2e.judge import Outcome, judged
from tests.e2e.ranks import RankedBuilder, generated
from tests.e2e.reference import NEW_TOKENS, greedy, load_eager, prompts
from tests.support.models import tiny_config

MODELS = Path(__file__).parents[2] / "models"
SHIPPED = ("tiny-dense", "tiny-moe")
RANKS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Drawn:
    """A random config."""

    number: int
    family: str
    fields: dict[str, Any] = field(hash=False)

    @property
    def name(self) -> str:
        heads = self.fields["num_attention_heads"], self.fields["num_key_value_heads"]
        tied = "-tied" if self.fields["tie_word_embeddings"] else ""
        return f"{self.number}-{self.family}-q{heads[0]}-kv{heads[1]}{tied}"

    @property
    def routed(self) -> bool:
        return self.family == "glm4_moe"

    def config(self) -> Any:
        return tiny_config(self.family, **self.fields)


def drawn(count: int, seed: int = 16) -> list[Drawn]:
    """Configs whose KV heads go from 1 to 8 and begin again; hardly anything divides."""
    chance = random.Random(seed)
    return [_drawn(number, chance) for number in range(count)]


def _drawn(number: int, chance: random.Random) -> Drawn:
    kv_heads = 1 + number % 8
    family = ("glm", "glm4_moe", "glm4", "glm4_moe")[number % 4]
    fields: dict[str, Any] = {
        "vocab_size": chance.choice([200, 203, 211]),
        "max_position_embeddings": MAX_CONTEXT,
        "num_key_value_heads": kv_heads,
        "num_attention_heads": kv_heads * chance.choice([1, 2, 3]),
        "head_dim": chance.choice([32, 64]),
        "hidden_size": chance.choice([48, 64]),
        "intermediate_size": chance.choice([56, 96, 100]),
        "attention_bias": chance.random() < 0.5,
        "tie_word_embeddings": chance.random() < 0.5,
        "eos_token_id": [1, 2, 3],
    }
    if family == "glm4_moe":
        groups, best = chance.choice([(1, 1), (2, 1), (4, 2)])
        fields |= {
            "num_hidden_layers": 2,
            "first_k_dense_replace": chance.choice([0, 1]),
            "use_qk_norm": chance.random() < 0.5,
            "n_routed_experts": chance.choice([8, 12, 16]),
            "num_experts_per_tok": chance.choice([1, 2, 3]),
            "n_shared_experts": chance.choice([1, 2]),
            "n_group": groups,
            "topk_group": best,
            "norm_topk_prob": chance.random() < 0.5,
            "routed_scaling_factor": chance.choice([1.0, 2.5]),
            "moe_intermediate_size": chance.choice([24, 40, 44]),
        }
    return Drawn(number, family, fields)


@dataclass(frozen=True)
class Subject:
    """A checkpoint with what Hugging Face answers."""

    name: str
    checkpoint: Path
    routed: bool
    model: Any
    texts: list[list[int]]
    expected: list[list[int]]

    @property
    def tokens(self) -> int:
        """Tokens that each text is continued by."""
        return len(self.expected[0])

    @staticmethod
    def of(
        name: str,
        checkpoint: Path,
        routed: bool,
        texts: int | None = None,
        tokens: int = NEW_TOKENS,
    ) -> Subject:
        """The first ``texts`` prompts, all where None."""
        model, chosen = load_eager(checkpoint, torch.float32), prompts()[:texts]
        expected = greedy(model, chosen, tokens)
        return Subject(name, checkpoint, routed, model, chosen, expected)


def subjects(count: int, only: str | None, folder: Path) -> Iterator[Subject]:
    """The shipped models, then random ones; ``only`` the one of that name."""
    for name in SHIPPED:
        if only in (None, name):
            yield Subject.of(name, MODELS / name, name == "tiny-moe")
    for each in drawn(count):
        if only not in (None, each.name):
            continue
        path = write_checkpoint(each, folder / each.name, torch.float32)  # type: ignore[arg-type]
        yield Subject.of(each.name, path, each.routed)


def compared(
    subject: Subject, builder: RankedBuilder, place: Place, ranks: int, by_expert: bool
) -> Outcome:
    """One cell of the matrix."""
    path = builder.artifact(place, tensor_parallel=ranks, expert_parallel=by_expert)
    found = generated(path, subject.texts, subject.tokens)
    return judged(subject.model, subject.texts, subject.expected, found)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.many_cards", description=__doc__)
    parser.add_argument("--configs", type=int, default=12, help="random configs")
    parser.add_argument("--only", help="the one model of this name")
    parser.add_argument("--ranks", default=",".join(map(str, RANKS)))
    parser.add_argument("--places", default=",".join(place.name for place in PLACES))
    parser.add_argument("--names", action="store_true", help="list the models and end")
    return parser.parse_args()


def main() -> int:
    chosen, total, faults = options(), [0, 0, 0], 0
    if chosen.names:
        print(*SHIPPED, *(each.name for each in drawn(chosen.configs)), sep="\n")
        return 0
    numbers = [int(each) for each in chosen.ranks.split(",")]
    places = [place for place in PLACES if place.name in chosen.places.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        for subject in subjects(chosen.configs, chosen.only, Path(folder)):
            common = {**CHUNKED, "block_size": 16, "max_context": MAX_CONTEXT}
            builder = RankedBuilder(subject.checkpoint, Path(folder) / "made", common)
            for place in places:
                for ranks in numbers:
                    for by_expert in (False, True) if subject.routed and ranks > 1 else (False,):
                        started = perf_counter()
                        label = f"{subject.name:<24} {place.name:<18} {ranks} ranks "
                        label += "by expert" if by_expert else "by width "
                        try:
                            outcome = compared(subject, builder, place, ranks, by_expert)
                        except Exception as error:  # noqa: BLE001 - the matrix goes on
                            faults += 1
                            print(f"{label} failed: {type(error).__name__}: {error}", flush=True)
                            continue
                        faults += outcome.differing > 0
                        total[0] += outcome.compared
                        total[1] += outcome.differing
                        total[2] += outcome.left_out
                        print(f"{label} {outcome}, {perf_counter() - started:.1f} s", flush=True)
    print(f"all: {total[0]} tokens compared, {total[1]} differ, {total[2]} left out")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())

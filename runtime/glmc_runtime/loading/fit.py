"""What fits into how much memory: the table of ``fit``, and the words beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from glmc_runtime.command.units import bytes_text, count_text
from glmc_runtime.errors import RequestError
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.format.memory import MemoryNeeds, memory_needs, parse_bytes
from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.format.plan import PhasePlan
from glmc_runtime.loading.loader import Artifact

CARDS = ("24GB", "48GB", "64GB", "80GB", "96GB", "141GB")
"""Sizes that cards are sold in."""
USUAL_CONTEXT = 8192
"""Tokens of the sequence that is asked for where nobody says."""
DIVISION = (
    "a plain division: no communication buffers, nothing replicated; what is compiled with "
    "--tensor-parallel is counted exactly"
)
OF_RANKS = "one for each rank, or more by a plain division where a rank does not fit"
UNITS = (
    "GB is 10^9 bytes, GiB 2^30. A card can have more than its name says (one sold as 96 GB may "
    "report 96 GiB): --device-memory 96GiB asks for that."
)
NOT_COUNTED = (
    "Device graphs, the driver, torch's own context and, on CUDA, the workspace of split and "
    "sorted kernels come on top and are not counted."
)
REPACKED = "Weights that a CPU repacks come on top too: at most one more copy of all of them."


@dataclass(frozen=True)
class Wanted:
    """What is asked of the table.

    ``memories`` are cards, such as ``96GiB``; of none: :data:`CARDS`. ``batch`` sequences of
    ``context`` tokens must fit; None: one, of :data:`USUAL_CONTEXT` tokens or as many as the plan
    has. The cache is given ``cache_memory``; None: all that is left.
    """

    memories: tuple[str, ...] = ()
    batch: int | None = None
    context: int | None = None
    cache_memory: str | None = None


@dataclass(frozen=True)
class Fit:
    """The longest context, in tokens, that ``batch`` sequences can have; 0 when none fits."""

    batch: int
    context: int


@dataclass(frozen=True)
class Card:
    """A card of ``memory`` bytes.

    ``left`` is what weights, arena and step inputs leave for the cache; below 0 they are larger
    than the card. ``cache`` is how much of it the cache may take, 0 where it was given more than is
    left, and ``tokens`` what it has room for: the largest batch times context. ``missing`` bytes
    keep what is asked for from fitting (0: it fits), and ``cards`` of this size have room for it
    by a division, for all ranks together.
    """

    name: str
    memory: int
    left: int
    cache: int
    tokens: int
    fits: tuple[Fit, ...]
    missing: int
    cards: int


@dataclass(frozen=True)
class FitReport:
    """``model`` is what was compiled, in words, for ``target``. ``batch`` sequences of ``context``
    tokens are asked for. ``cache_memory`` bounds the cache where it is not None. Bytes are those of
    each of ``ranks``."""

    model: str
    target: str
    cache_dtype: str
    needs: MemoryNeeds
    batch: int
    context: int
    cache_memory: int | None
    cards: tuple[Card, ...]
    ranks: int = 1

    @property
    def cards_are(self) -> str:
        """How the cards of a row were counted."""
        return DIVISION if self.ranks == 1 else OF_RANKS

    @property
    def blocks(self) -> int:
        """Blocks of a cache for what is asked for, scratch included."""
        return self.needs.blocks(self.batch, self.context)

    @property
    def cache(self) -> int:
        """Bytes of the cache: what is asked for, or what was given where that is more."""
        return max(self.blocks * self.needs.block, self.cache_memory or 0)

    @property
    def total(self) -> int:
        return self.needs.without_cache + self.cache

    def to_json(self) -> dict[str, Any]:
        needs = self.needs
        return {
            "model": self.model,
            "target": self.target,
            "ranks": self.ranks,
            "weight_bytes": needs.weights,
            "arena_bytes": needs.arena,
            "input_bytes": needs.inputs,
            "cache_bytes_per_token": needs.token,
            "cache_dtype": self.cache_dtype,
            "cache_block_tokens": needs.block_size,
            "cache_memory": self.cache_memory,
            "batches": needs.batches,
            "max_context": needs.max_context,
            "asked": {
                "batch": self.batch,
                "context": self.context,
                "kv_blocks": self.blocks,
                "total_bytes": self.total,
            },
            "cards": [asdict(card) for card in self.cards],
            "cards_are": self.cards_are,
        }

    def header(self) -> Iterator[str]:
        """What it takes, a line for each purpose."""
        needs = self.needs
        yield self.model
        if self.ranks > 1:
            yield f"  on each of {self.ranks} ranks, which have a card of their own:"
        yield f"  weights      {bytes_text(needs.weights)}"
        yield f"  KV cache     {bytes_text(needs.token)} a token ({self.cache_dtype})"
        yield (
            f"  arena        {bytes_text(needs.arena)}, temporaries of the largest step; "
            f"step inputs {bytes_text(needs.inputs)}"
        )
        yield (
            f"  planned for  batches up to {needs.batches[-1]}, contexts up to "
            f"{needs.max_context:,} tokens"
        )
        if self.cache_memory is not None:
            yield (
                f"  cache given  {bytes_text(self.cache_memory)}: "
                f"{needs.blocks_within(self.cache_memory) * needs.block_size:,} tokens"
            )

    def columns(self) -> tuple[str, ...]:
        """Headings of the table."""
        contexts = (f"context at batch {batch}" for batch in self._shown())
        asked = f"{self.batch} x {self.context:,}"
        return ("card", "GiB", "left for cache", "batch x context", *contexts, asked, "cards")

    def rows(self) -> Iterator[tuple[str, ...]]:
        """A row for each card."""
        shown = self._shown()
        for card in self.cards:
            fits = {fit.batch: f"{fit.context:,}" if fit.context else "-" for fit in card.fits}
            yield (
                card.name,
                f"{card.memory / 2**30:.1f}",
                _short(-card.left) if card.left < 0 else bytes_text(card.left),
                f"{card.tokens:,}" if card.tokens else "-",
                *(fits[batch] for batch in shown),
                _short(card.missing) if card.missing else "fits",
                str(card.cards),
            )

    def notes(self) -> Iterator[str]:
        """What the numbers are and are not."""
        yield (
            f"{self.batch} x {self.context:,} ({'a sequence' if self.batch == 1 else 'sequences'} "
            f"of so many tokens) takes {bytes_text(self.total)} in all, "
            f"{bytes_text(self.cache)} of it cache: --kv-blocks {self.cache // self.needs.block}."
        )
        yield f"cards: {self.cards_are}."
        yield UNITS
        yield NOT_COUNTED
        if self.target == "cpu":
            yield REPACKED

    def text(self) -> str:
        """All of it, for a terminal without a library for tables."""
        table = [self.columns(), *self.rows()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in table
        ]
        return "\n".join([*self.header(), "", *lines, "", *self.notes()])

    def _shown(self) -> tuple[int, ...]:
        """Batches with a column: the smallest, one between, the largest, and what is asked for;
        none where no card has room for a token."""
        if not any(card.tokens for card in self.cards):
            return ()
        batches = self.needs.batches
        return tuple(sorted({batches[0], batches[len(batches) // 2], batches[-1], self.batch}))


def _short(missing: int) -> str:
    return f"{bytes_text(missing)} short"


def artifact_fit(artifact: Artifact, wanted: Wanted) -> FitReport:
    """What fits of an artifact; raises as :func:`fit_report`."""
    return fit_report(artifact.manifest, artifact.plans, wanted)


def fit_report(
    manifest: Manifest, plans: Mapping[PhaseKey, PhasePlan], wanted: Wanted
) -> FitReport:
    """The table for what is wanted. Raises :class:`RequestError` for what is no amount of memory,
    and for a batch and context that nothing was planned for."""
    needs = memory_needs(manifest, plans)
    batch = 1 if wanted.batch is None else wanted.batch
    context = wanted.context
    if context is None:
        context = min(USUAL_CONTEXT, needs.max_context)
    if batch < 1 or context < 1:
        raise RequestError(
            "at least one sequence of one token must be asked for",
            found=f"batch {batch}, context {context}",
        )
    limit = None if wanted.cache_memory is None else parse_bytes(wanted.cache_memory)
    asked = needs.blocks(batch, context) * needs.block
    ranks = manifest.ranks.count
    cards = tuple(
        _card(name, needs, batch, asked, limit, ranks) for name in wanted.memories or CARDS
    )
    model, profile = manifest.model, manifest.abi_profile
    return FitReport(
        f"{model.name}: {model.architecture}, {count_text(model.parameters)} parameters, "
        f"{manifest.dtype} for {manifest.target}" + (f", ABI profile {profile}" if profile else ""),
        manifest.target,
        ", ".join(dict.fromkeys(row.dtype for row in manifest.cache.tensors)),
        needs,
        batch,
        context,
        limit,
        cards,
        ranks,
    )


def _card(
    name: str, needs: MemoryNeeds, batch: int, asked: int, limit: int | None, ranks: int
) -> Card:
    """``asked`` bytes of cache, of the ``limit`` that it is given."""
    memory = parse_bytes(name)
    if not memory:
        raise RequestError("a card has some memory", found=name)
    left = memory - needs.without_cache
    cache = max(left, 0) if limit is None else limit if limit <= left else 0
    used = needs.without_cache + max(asked, limit or 0)
    missing = max(used - memory, 0 if limit is None else asked - limit, 0)
    fits = tuple(
        Fit(each, needs.longest_context(each, cache)) for each in sorted({*needs.batches, batch})
    )
    return Card(
        name,
        memory,
        left,
        cache,
        needs.blocks_within(cache) * needs.block_size,
        fits,
        missing,
        ranks * -(-used // memory),
    )

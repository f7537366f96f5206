"""The values of one step of two records, each compared and judged, in order of execution."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from math import prod

import torch
from torch import Tensor

from glmc.check.align.loaded import Loaded, load, statistics_of_pair
from glmc.check.align.metrics import Measured, measure, unmeasured
from glmc.check.align.module_tree import layer_number
from glmc.check.align.other_experts import AFTER, BEFORE, OtherExperts
from glmc.check.align.pairing import Pair
from glmc.check.align.result import AlignedValue, RouterAgreement, Verdict
from glmc.check.align.router_rows import RouterRows, weights_by_expert
from glmc.check.align.thresholds import Evidence, Judgement, Thresholds, unit_of
from glmc_runtime.format.tensor_key import INPUT, PARAMS
from glmc_runtime.record.tensors import RecordedTensor, Statistics

UNSEEN_LAYERS = 64
"""How deep a value may be of records that have no value of any layer."""
Wanted = Callable[[str, int | None], bool]
"""Whether values of a module, in a layer, are compared."""


@dataclass
class Progress:
    """What is known after some values: the widest row, the last layer and, of tokens, which follow
    another choice of experts. ``dtypes`` are what the sides computed in, None where nothing says;
    ``narrow``: of which side what is stored in float32 may have been computed in less."""

    dtypes: tuple[torch.dtype | None, torch.dtype | None]
    narrow: tuple[bool, bool]
    others: OtherExperts = field(default_factory=OtherExperts)
    width: int = 1
    last_layer: int | None = None
    has_layers: bool = True

    def move(self, pair: Pair) -> int:
        """On to the place of the next value, in layers."""
        if pair.expected.key.kind != PARAMS:
            sizes = (*pair.expected.shape[-1:], *pair.actual.shape[-1:])
            self.width = max(self.width, *sizes, 1)
        layer = layer_of_pair(pair)
        if layer is None:
            return BEFORE if self.last_layer is None else AFTER
        self.last_layer = max(layer, self.last_layer or 0)
        return layer

    def depth(self, place: int) -> int:
        """How many layers have worked for a value at a place; the embedding counts for one."""
        if not self.has_layers:
            return UNSEEN_LAYERS
        if place == BEFORE:
            return 1
        return (self.last_layer or 0) + 2 if place == AFTER else place + 1


@dataclass(frozen=True)
class Compared:
    """What was found of a pair."""

    loaded: Loaded | None
    measured: Measured | None
    statistics: tuple[Statistics, Statistics] | None
    judged: Judgement
    router: RouterAgreement | None = None


class AlignedStep:
    """Compares the pairs of a step; ``tensors`` are all that the reference has in it. Where not all
    values are ``wanted``, what routers read and choose is compared all the same: others depend on
    it."""

    def __init__(
        self,
        thresholds: Thresholds,
        progress: Progress,
        pairs: Sequence[Pair],
        tensors: Iterable[RecordedTensor],
        wanted: Wanted,
    ) -> None:
        self._thresholds, self._progress = thresholds, progress
        self._pairs, self._wanted = pairs, wanted
        self._routers = RouterRows(pairs, tensors)
        progress.has_layers = any(layer_of_pair(pair) is not None for pair in pairs)
        self._rows: list[AlignedValue] = []
        self._shown: list[bool] = []
        self._seen: dict[Hashable, int] = {}
        # By row: tokens and the errors of them as shares of their magnitudes; which row a module
        # reads.
        self._errors: dict[int, tuple[Tensor, Tensor]] = {}
        self._reads: dict[str, int] = {}

    def rows(self) -> list[AlignedValue]:
        """A row for each value; a tensor that several names have is one."""
        for pair in self._pairs:
            place = self._progress.move(pair)
            wanted = self._wanted(pair.expected.key.module, layer_of_pair(pair))
            if not wanted and not self._routers.concerns(pair):
                continue
            said = _said(pair)
            if said in self._seen:
                self._again(pair, self._seen[said], wanted)
                continue
            compared = self._compare(pair, place)
            found = _found(pair, compared)
            if found in self._seen:
                self._again(pair, self._seen[found], wanted)
                continue
            number = len(self._rows)
            self._seen |= {key: number for key in (said, found) if key is not None}
            self._rows.append(_row(pair, compared))
            self._shown.append(wanted)
            self._remember(pair, compared, number)
        return list(compress(self._rows, self._shown))

    def _again(self, pair: Pair, number: int, wanted: bool) -> None:
        """Another name of a tensor that has a row."""
        row = self._rows[number]
        self._rows[number] = replace(row, also=(*row.also, pair.name))
        self._shown[number] |= wanted
        self._read(pair, number)

    def _read(self, pair: Pair, number: int) -> None:
        if pair.expected.key.kind == INPUT:
            self._reads.setdefault(pair.expected.key.module, number)

    def _remember(self, pair: Pair, compared: Compared, number: int) -> None:
        self._read(pair, number)
        loaded, measured = compared.loaded, compared.measured
        if loaded is None or measured is None or pair.layout.per_token != 1:
            return
        rows = measured.rows
        if len(rows.errors) != len(loaded.numbers):
            return
        usual = float(rows.magnitudes.median())
        self._errors[number] = loaded.numbers, rows.errors / rows.magnitudes.clamp(min=usual)

    def _compare(self, pair: Pair, place: int) -> Compared:
        loaded = load(pair, self._progress.narrow)
        if loaded is None:
            return self._by_statistics(pair, place)
        ids = self._routers.ids_of(pair)
        if ids is pair:
            return self._choice(pair, loaded, place)
        if ids is not None:
            chosen = load(ids, self._progress.narrow)
            loaded = chosen and weights_by_expert(loaded, chosen)
            if loaded is None:
                reason = "no token has the same experts on both sides"
                return Compared(None, None, None, Judgement(Verdict.UNKNOWN, reason))
        measured = measure(loaded.expected, loaded.actual, dtype=loaded.dtype)
        evidence = replace(self._evidence(pair, place), measured=measured)
        if _of_an_expert(pair) and self._progress.others.up_to(place):
            reason = "the rows of an expert are the tokens that chose it, and some chose others"
            judged = Judgement(Verdict.UNKNOWN, reason)
        else:
            follows = self._follows(pair, loaded, place)
            judged = self._thresholds.judge(replace(evidence, follows=follows))
        return Compared(loaded, measured, None, judged)

    def _choice(self, pair: Pair, loaded: Loaded, place: int) -> Compared:
        gate = self._routers.gate(pair.expected.key.module)
        tokens, errors = self._errors.get(self._reads.get(gate, -1), (None, None))
        if tokens is None or not torch.equal(tokens, loaded.numbers):
            errors = None
        chosen = self._routers.chosen(pair, loaded, errors)
        if len(chosen.elsewhere):
            self._progress.others.note(place, chosen.elsewhere)
        return Compared(loaded, chosen.measured, None, chosen.judged, chosen.router)

    def _by_statistics(self, pair: Pair, place: int) -> Compared:
        statistics = statistics_of_pair(pair)
        if statistics is None:
            reason = "the sides have stored no row in common, and no statistics of the same"
            return Compared(None, None, None, Judgement(Verdict.UNKNOWN, reason))
        if self._progress.others.up_to(place):
            reason = "statistics alone, of tokens that follow another choice of experts too"
            return Compared(None, None, statistics, Judgement(Verdict.UNKNOWN, reason))
        evidence = replace(self._evidence(pair, place), statistics=statistics)
        return Compared(None, None, statistics, self._thresholds.judge(evidence))

    def _evidence(self, pair: Pair, place: int) -> Evidence:
        progress = self._progress
        whole = [each and "float" not in each for each in (pair.expected.dtype, pair.actual.dtype)]
        exact = any(whole) or pair.expected.key.kind == PARAMS
        units = [unit_of(each, progress.width) for each in progress.dtypes if each is not None]
        unit = max(units, default=None)
        return Evidence(None, exact=exact, unit=unit, depth=progress.depth(place))

    def _follows(self, pair: Pair, loaded: Loaded, place: int) -> Tensor | None:
        """Which rows can't be judged, as their tokens follow another choice of experts."""
        others = self._progress.others
        if pair.expected.key.kind == PARAMS or not others.up_to(place):
            return None
        tokens = pair.layout.tokens_of(loaded.numbers)
        if tokens is None:
            return torch.ones(len(loaded.numbers), dtype=torch.bool)
        return others.follow(place, tokens)


def layer_of_pair(pair: Pair) -> int | None:
    """Of the module whose tensor it is: the node that computes it may be fused into the next
    layer's norm."""
    layer = layer_number(pair.expected.key.module)
    return layer_number(pair.actual.key.module) if layer is None else layer


def _of_an_expert(pair: Pair) -> bool:
    return "experts" in pair.expected.key.module.split(".")[:-1]


def _said(pair: Pair) -> Hashable:
    """What both records say of a tensor that has several names; None where they say nothing."""
    statistics = statistics_of_pair(pair)
    if statistics is None or pair.expected.key.kind == PARAMS or _counts(pair):
        return None
    sides = ((each.dtype, each.rows) for each in (pair.expected, pair.actual))
    return (*sides, pair.layout.width * pair.layout.per_token, repr(statistics))


def _counts(pair: Pair) -> bool:
    """Whether it holds whole numbers, such as ids: other tensors may have the same statistics."""
    dtypes = (pair.expected.dtype, pair.actual.dtype)
    return any(each is not None and "float" not in each for each in dtypes)


def _found(pair: Pair, compared: Compared) -> Hashable:
    """What the comparison says of a tensor that has several names."""
    measured = compared.measured
    if measured is None or pair.expected.key.kind == PARAMS or _counts(pair):
        return None
    if not measured.difference.magnitude > 0:  # nothing to know a tensor by, nor by NaN
        return None
    return repr(measured.difference)


def _row(pair: Pair, compared: Compared) -> AlignedValue:
    expected, actual = pair.expected, pair.actual
    facts = {**expected.facts, **actual.facts}
    loaded, measured, judged = compared.loaded, compared.measured, compared.judged
    none = unmeasured(prod(expected.shape), compared.statistics)
    passes = facts.get("passes")
    return AlignedValue(
        step=expected.step,
        order=expected.order,
        phase=_text(facts.get("phase")),
        name=pair.name,
        other_name=pair.other_name,
        paired_by=pair.paired_by,
        layer=layer_of_pair(pair),
        module=expected.key.module,
        op=_text(facts.get("op")),
        node=_text(facts.get("node")),
        function=_text(facts.get("function")),
        source=_text(facts.get("source")),
        passes=tuple(map(str, passes)) if isinstance(passes, (list, tuple)) else (),
        dtype=actual.dtype if loaded is None else str(loaded.dtype).removeprefix("torch."),
        shape=expected.shape,
        total=none if measured is None else measured.difference,
        own=None,
        inherited=None,
        numerics=None,
        bound=None,
        router=compared.router,
        verdict=judged.verdict,
        reason=judged.reason,
        statistics=compared.statistics,
        share=judged.share,
        dealt=_text(facts.get("dealt")),
        ranks_apart=max(_numbers_of("ranks_apart", expected, actual), default=None),
    )


def _numbers_of(name: str, *sides: RecordedTensor) -> Iterator[float]:
    return (fact for each in sides if isinstance(fact := each.facts.get(name), float))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

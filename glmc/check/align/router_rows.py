"""What two routers chose and how they weigh it, compared token by token."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glmc.check.align.loaded import Loaded
from glmc.check.align.metrics import Measured, measure
from glmc.check.align.module_tree import spelled
from glmc.check.align.pairing import Pair
from glmc.check.align.result import RouterAgreement, Verdict
from glmc.check.align.router_scores import ROUTER_SCORES
from glmc.check.align.routers import agreement, by_expert, choice, is_choice
from glmc.check.align.thresholds import Judgement
from glmc_runtime.format.tensor_key import INPUT
from glmc_runtime.record.tensors import RecordedTensor

Call = tuple[str, str, int, str]


@dataclass(frozen=True)
class Chosen:
    """Ids that were compared. ``elsewhere`` are tokens that went to other experts for no fault of
    the router, or for none that is known."""

    measured: Measured
    router: RouterAgreement
    judged: Judgement
    elsewhere: Tensor


class RouterRows:
    """The routers of a step: ``pairs`` are all of it, ``tensors`` all that the reference has."""

    def __init__(self, pairs: Iterable[Pair], tensors: Iterable[RecordedTensor]) -> None:
        choices = (pair for pair in pairs if is_choice(pair.expected, pair.actual))
        self._choices = {_call(pair): pair for pair in choices if pair.layout.per_token == 1}
        self._scores = {
            each.key.module: each for each in tensors if each.key.class_name == ROUTER_SCORES
        }
        self._gates = {self.gate(module) for module, *_ in self._choices}

    def ids_of(self, pair: Pair) -> Pair | None:
        """The pair of ids that a pair is, or that its weights are in the order of."""
        ids = self._choices.get(_call(pair))
        if ids is None or pair.expected.shape[-1:] != ids.expected.shape[-1:]:
            return None
        same = (pair.layout.per_token, pair.layout.width) == (1, ids.layout.width)
        return ids if same else None

    def concerns(self, pair: Pair) -> bool:
        """Whether a pair is what a router chooses, or what it reads."""
        module, ids = pair.expected.key.module, self._choices.get(_call(pair))
        return pair is ids or (pair.expected.key.kind == INPUT and module in self._gates)

    def gate(self, module: str) -> str:
        """The module that chooses for one that has ids: itself, or the one beside the experts."""
        around, _, name = module.rpartition(".")
        if spelled(name) == "gate":
            return module
        beside = (each for each in self._scores if each.rpartition(".")[0] == around)
        return next(beside, f"{around}.gate")

    def chosen(self, pair: Pair, loaded: Loaded, errors: Tensor | None) -> Chosen:
        """Compare ids; ``errors`` are those of what the router read, by row of ``loaded``."""
        both = choice(loaded.expected, loaded.actual)
        scores = self._scores_of(pair, loaded.numbers)
        found = agreement(both, scores, errors)
        apart = (~both.same).nonzero().flatten()
        if found.margins is not None and found.ties is not None:
            tied = [own <= tie for own, tie in zip(found.margins, found.ties, strict=True)]
            apart = apart[torch.tensor(tied, dtype=torch.bool)]
        judged = _judged(found)
        return Chosen(measure(both.expected, both.actual), found, judged, loaded.numbers[apart])

    def _scores_of(self, pair: Pair, numbers: Tensor) -> Tensor | None:
        scores = self._scores.get(self.gate(pair.expected.key.module))
        if scores is None or scores.load is None or scores.rows is not None:
            return None
        whole = scores.load()
        return whole[numbers] if len(whole) > int(numbers.max()) else None


def weights_by_expert(weights: Loaded, ids: Loaded) -> Loaded | None:
    """Weights of the tokens for which both sides chose the same; None where there are none."""
    if not torch.equal(weights.numbers, ids.numbers):
        return None
    same = choice(ids.expected, ids.actual).same
    if not bool(same.any()):
        return None
    return replace(
        weights,
        expected=by_expert(weights.expected, ids.expected)[same],
        actual=by_expert(weights.actual, ids.actual)[same],
        numbers=weights.numbers[same],
    )


def _judged(found: RouterAgreement) -> Judgement:
    apart = found.tokens - found.agreeing
    if not apart:
        return Judgement(Verdict.OK, "", 0.0)
    words = f"other experts for {apart} of {found.tokens} tokens"
    if found.margins is None or found.ties is None:
        return Judgement(Verdict.UNKNOWN, f"{words}; the scores are not known")
    shares = [
        own / tie if tie else float("inf") * own
        for own, tie in zip(found.margins, found.ties, strict=True)
    ]
    if found.tied:
        reason = f"{words}, tied as far as the error of what the router read goes"
        return Judgement(Verdict.OK, reason, max(shares))
    beyond = sum(share > 1 for share in shares)
    reason = f"{words}, {beyond} of them by more than the error of what the router read explains"
    return Judgement(Verdict.FAIL, reason, max(shares))


def _call(pair: Pair) -> Call:
    key = pair.expected.key
    return key.module, key.class_name, key.call, key.kind

"""One step of one phase: what is expected, the free and the forced replay, call by call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from glmc.check.align.call_values import CallValues, like, producer, results_of
from glmc.check.align.expectation import Expectation
from glmc.check.align.histograms import Histograms
from glmc.check.align.node_values import NodeValues
from glmc.check.align.rebuilt import Rebuilt
from glmc.check.align.routers import choice
from glmc.check.align.routing import gate_of
from glmc.check.align.shown import Shown
from glmc.check.align.two_replays import Side, TwoReplays
from glmc.check.calls.judged import UNTOUCHED
from glmc.check.calls.step_values import bound_to_step
from glmc.check.calls.written import WrittenValues
from glmc.check.verify.lockstep import RankThreads
from glmc.errors import InternalError
from glmc.ir.tolerance import compare
from glmc.lowering.lower import Lowered
from glmc_runtime.format.cache import CacheKey
from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.format.plan import Call
from glmc_runtime.replay.step import Step

Made = tuple[Call, dict[str, Any]]


@dataclass(frozen=True)
class StepPlace:
    """Which step: its number in the run, its phase, and its sizes with and without padding."""

    number: int
    key: PhaseKey
    padded: Step
    real: Step


@dataclass(frozen=True)
class CallDone:
    """What is known after the call at ``position``: by node, its values on each rank; and by rank,
    the values that the call has changed though they are not its own."""

    position: int
    values: tuple[tuple[CallValues, ...], ...]
    overwritten: tuple[tuple[Node, ...], ...]


class LockStep:
    """All calls of a step. ``caches`` are the expected ones by rank, which the step replaces.
    ``before`` is told the position of each call before it is run."""

    def __init__(
        self,
        rebuilt: Rebuilt,
        expectation: Expectation,
        threads: RankThreads,
        replays: Sequence[TwoReplays],
        place: StepPlace,
        caches: Sequence[dict[CacheKey, Tensor]],
        blocks: int,
    ) -> None:
        phase = rebuilt.phases[place.key]
        self.program, self.lowered = phase.program, phase.lowered
        self.place = place
        self.before: Callable[[int], object] = _nothing
        self._threads, self._caches = threads, caches
        self._held: list[dict[Node, Tensor]] = [{} for _ in replays]
        self._slots = torch.tensor(list(place.real.column("slot_mapping")))
        nodes = {node.name: node for node in self.program.graph.nodes}
        layout = rebuilt.compiled.job.target.cache_layout
        self._free, self._forced = (
            [_Replay(side, self.lowered, nodes, layout, place) for side in sides]
            for sides in ([each.free for each in replays], [each.forced for each in replays])
        )
        profile = rebuilt.artifact.manifest.abi_profile
        self._histograms = [Histograms(each.loaded.vendor, profile) for each in replays]
        options, weights = rebuilt.compiled.job.lowering, rebuilt.weights
        keys = [node.meta["cache"].key for node in self.program.caches()]
        paged = [{key: each.written.paged(*key).cpu() for key in keys} for each in self._free]
        expected, replayed = (
            [
                bound_to_step(self.program, place.real, options, weights, each, blocks, rank)
                for rank, each in enumerate(held)
            ]
            for held in (caches, paged)
        )
        expectation.begin(place.number, place.real)
        self._values = NodeValues(phase, expectation, expected, replayed)

    def calls(self) -> Iterator[CallDone]:
        """Each call once it has run; what is expected takes the place of what it left when the next
        one is asked for."""
        for position in range(len(self.lowered.plan.calls)):
            self.before(position)
            free = self._threads.each(lambda rank: self._free[rank].advance())
            forced = self._threads.each(lambda rank: self._forced[rank].advance())
            for histograms, made in zip(self._histograms, forced, strict=True):
                histograms.note(*made)
            with torch.no_grad():
                done, left = self._done(position, free, forced)
            yield done
            with torch.inference_mode():
                self._force(position, left)

    def operands(self, node: Node) -> dict[Node, Any]:
        """What is expected of the operands of a node whose calls come next, on the first rank."""
        return {each: self._values.expected.value(each) for each in node.all_input_nodes}

    def logits(self) -> Tensor:
        """Those of a step that is over, as expected."""
        output = next(node for node in reversed(self.program.graph.nodes) if node.op == "output")
        return self._values.expected.value(output.args[0][0])  # type: ignore[no-any-return]

    def _done(
        self, position: int, free: Sequence[Made], forced: Sequence[Made]
    ) -> tuple[CallDone, list[dict[Node, Tensor]]]:
        written = self._forced[0].written
        nodes = written.nodes_after(position)
        caches = {node: key for key, node in written.caches_after(position).items()}
        groups = [
            Shown(results_of(one, nodes), caches, self._slots)
            for one in dict.fromkeys(map(producer, nodes))
        ]
        computed = [self._values.compute(position, each) for each in groups]
        left: list[dict[Node, Tensor]] = []
        values: list[list[CallValues]] = [[] for _ in groups]
        overwritten: list[tuple[Node, ...]] = []
        for rank, expected in enumerate(self._values.expected.values):
            had = self._free[rank].written.after(position, *free[rank], expected)
            had = {node: value if node in caches else value.clone() for node, value in had.items()}
            left.append(self._forced[rank].written.after(position, *forced[rank], expected))
            for known, each in zip(values, computed, strict=True):
                known.append(each.beside(rank, had, left[rank], expected))
            overwritten.append(self._mended(rank, position, left[rank]))
            for node, value in had.items():
                self._values.replayed.put_on(rank, node, like(expected[node], value))
        for shown in groups:
            self._values.drop_operands(shown)
        return CallDone(position, tuple(map(tuple, values)), tuple(overwritten)), left

    def _mended(self, rank: int, position: int, own: Mapping[Node, Tensor]) -> tuple[Node, ...]:
        """The values that are still read and are no longer what they must be; they are again."""
        held, found = self._held[rank], []
        held.update((node, self._values.expected.values[rank][node]) for node in own)
        needed = self._forced[rank].written.still_needed(position)
        for value, node in needed:
            expected = held[node]
            if node in own or compare(expected, like(expected, value), UNTOUCHED).allowed:
                continue
            found.append(node)
            with torch.inference_mode():
                value.copy_(expected)
        self._held[rank] = {node: held[node] for _, node in needed}
        return tuple(found)

    def _force(self, position: int, left: Sequence[Mapping[Node, Tensor]]) -> None:
        for rank, values in enumerate(left):
            expected = self._values.expected.values[rank]
            for node, value in values.items():
                ids = gate_of(node) is not None and not value.is_floating_point()
                others = ids and not bool(choice(expected[node], value.cpu()).same.all())
                value.copy_(expected[node])
                if others:
                    self._histograms[rank].renew(value)
            for key, node in self._forced[rank].written.caches_after(position).items():
                self._caches[rank][key] = expected[node]


def _nothing(position: int) -> None:
    pass


class _Replay:
    """One of the two on one rank."""

    def __init__(
        self,
        side: Side,
        lowered: Lowered,
        nodes: Mapping[str, Node],
        layout: str,
        place: StepPlace,
    ) -> None:
        self.written = WrittenValues(lowered, nodes, side.cache, layout)
        self._trace = side.replays[place.key].trace(place.padded)

    def advance(self) -> Made:
        """The next call, which has run, with what it was bound to."""
        with torch.inference_mode():
            made = next(self._trace, None)
        if made is None:
            raise InternalError("a replay ends before its plan")
        return made

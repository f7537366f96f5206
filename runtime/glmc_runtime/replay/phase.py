"""Replay a phase: fill the inputs, run the bound calls, look at the logits."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from time import perf_counter
from typing import Any

import torch

from glmc_runtime.command.units import seconds_text
from glmc_runtime.errors import GlmcError, PlanError
from glmc_runtime.format.dependence import Symbols
from glmc_runtime.format.plan import Call
from glmc_runtime.kernels import Thunk, is_vendor
from glmc_runtime.kernels.merging import failed_member, merged
from glmc_runtime.replay.bind import PhaseBinder
from glmc_runtime.replay.bound_step import BoundStep, Inputs, Part, Sizes, parts_of
from glmc_runtime.replay.failed_call import explained
from glmc_runtime.replay.graph import CudaGraphs, GraphCapture
from glmc_runtime.replay.guard_steps import run_guarded
from glmc_runtime.replay.profile import graph_range, in_range
from glmc_runtime.replay.statistics import Statistics
from glmc_runtime.replay.step import Step
from glmc_runtime.replay.timeline.timer import (
    KEPT_HIDDEN,
    STEP_INPUTS,
    DeviceGraph,
    Looked,
    Place,
    StepTimer,
)
from glmc_runtime.replay.weight_watch import WeightWatch

_LOG = logging.getLogger("glmc_runtime.graphs")
# Code of others, such as a vendor's library or Triton's compiler, may raise whatever it likes.
KERNEL_ERRORS = (Exception,)


class PhaseReplay:
    """One phase. It keeps the bound steps that were used last, ``keep`` of them; None: all.

    The first ``guard_steps`` steps are guarded (see :mod:`glmc_runtime.replay.guard_steps`), as far
    as they are no device graphs; each bucket that becomes one is guarded once before its capture.
    ``kept_hidden`` [rows, hidden size] is where the body leaves its hidden states for the caller,
    as the head of the same step may run over the arena's.
    """

    def __init__(
        self,
        binder: PhaseBinder,
        inputs: Inputs,
        graphs: GraphCapture,
        statistics: Statistics,
        keep: int | None,
        guard_steps: int = 0,
        watch: WeightWatch | None = None,
        kept_hidden: torch.Tensor | None = None,
    ) -> None:
        self._binder = binder
        self._plan = binder.plan
        self._inputs = inputs
        self._graphs = graphs
        self._statistics = statistics
        self._keep = keep
        self._watch = watch or WeightWatch()
        self._steps: OrderedDict[tuple[Any, ...], BoundStep] = OrderedDict()
        self._bucket = binder.plan.phase.bucket
        self._captured: dict[int, dict[int, tuple[Thunk, ...]]] = {}
        self._captured_sizes: dict[int, Symbols] = {}
        self._parts = parts_of(binder.plan)
        self._kept_hidden = kept_hidden if Part.BODY in self._parts else None
        self._timer: StepTimer | None = None
        depends = binder.dependencies(binder.plan)
        names, bucket = binder.plan.phase.equal_names, self._bucket
        # A graph is kept for each bucket: what depends on other sizes of a step is in none.
        self._in_graphs = [
            segment.captured
            and all(
                names.get(name, name) == bucket
                for call in depends[segment.first : segment.last + 1]
                for name in call
            )
            for segment in binder.plan.segments
        ]
        calls_vendor = any(is_vendor(call.function) for call in binder.plan.calls)
        self._guard_steps_left = guard_steps if calls_vendor else 0
        self._plain = self._is_plain()

    @property
    def timer(self) -> StepTimer | None:
        """What is told of each call of a step; nothing of it is in a step that has none."""
        return self._timer

    @timer.setter
    def timer(self, timer: StepTimer | None) -> None:
        self._timer = timer
        self._plain = self._is_plain()

    def _is_plain(self) -> bool:
        """Whether a step is its thunks and nothing else."""
        return not (self._guard_steps_left or self._timer or self._statistics.timing)

    @property
    def has_greedy(self) -> bool:
        """Whether the plan computes the greedy tokens."""
        return self._plan.greedy is not None

    def run(self, step: Sizes) -> torch.Tensor:
        """Logits [real sequences, vocabulary]: a view that the next step overwrites."""
        return self._run_step(step, None).logits

    def run_greedy(self, step: Step, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """The greedy tokens, int64 [real sequences], -1 where the logits are not finite: a view
        that the next step overwrites. ``tokens`` as for :meth:`StepInputs.fill`."""
        greedy = self._run_step(step, tokens).greedy
        if greedy is None:
            raise PlanError(f"the {self._plan.name} plan has no greedy tokens")
        return greedy

    def run_body(self, step: Sizes) -> torch.Tensor:
        """The last hidden states of the real tokens, [tokens, hidden size]: a view that the next
        step overwrites, and without ``kept_hidden`` the next call of any phase."""
        self._require_head()
        hidden = self._run_step(step, None, Part.BODY).body
        assert hidden is not None
        return hidden

    def run_head(self, step: Sizes, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of rows of hidden states, as many as the step has real tokens: a view that the
        next step overwrites. The head of decode reads nothing else of a step."""
        self._require_head()
        self._watch.check()
        bound = self._bound(step)
        assert bound.hidden is not None
        bound.hidden.copy_(hidden)
        with nullcontext() if self._timer is None else self._timed(self._timer, step):
            self._run_part(bound, step, Part.HEAD)
        self._watch.check()
        return bound.logits

    def _require_head(self) -> None:
        if Part.HEAD not in self._parts:
            raise PlanError(f"the {self._plan.name} plan does not say where its head begins")

    def _run_step(
        self, step: Sizes, tokens: torch.Tensor | None, part: Part = Part.WHOLE
    ) -> BoundStep:
        self._watch.check()  # what was cut short must not be touched
        bound = self._bound(step)
        if self._timer is None:
            self._fill_and_run(bound, step, tokens, part)
        else:
            with self._timed(self._timer, step):
                self._fill_and_run(bound, step, tokens, part)
        self._watch.check()  # nor is what was computed while a weight changed handed out
        return bound

    def _fill_and_run(
        self, bound: BoundStep, step: Sizes, tokens: torch.Tensor | None, part: Part
    ) -> None:
        self._inputs.fill(step, tokens)
        sizes, real = step.sizes, step.real
        self._statistics.count_step(self._plan.name, sizes[self._bucket], real[self._bucket])
        self._run_part(bound, step, part)

    def _timed(self, timer: StepTimer, step: Sizes) -> AbstractContextManager[object]:
        replayed = self._graphs.on_device and bool(self._captured.get(step.sizes[self._bucket]))
        guarded = self._guard_steps_left > 0
        return timer.step(self._plan, step, replayed=replayed, guarded=guarded)

    def _bound(self, step: Sizes) -> BoundStep:
        sizes, real = step.sizes, step.real
        key = (*sizes.values(), *real.values())
        bound = self._steps.get(key)
        if bound is None:
            bound = self._bind(key, Symbols(sizes, real))
        elif self._keep is not None:
            self._steps.move_to_end(key)
        return bound

    def _run_part(self, bound: BoundStep, step: Sizes, part: Part) -> None:
        if self._plain:
            self._run(bound.thunks[part])
        elif self._guard_steps_left:
            captured = self._captured.get(step.sizes[self._bucket], {})
            self._run_guarded(Symbols(step.sizes, step.real), captured, part)
            self._guard_steps_left -= part is not Part.HEAD
            self._plain = self._is_plain()
        else:
            self._run_segments(bound, step.sizes[self._bucket], part)

    def trace(self, step: Step) -> Iterator[tuple[Call, dict[str, Any]]]:
        """Run ``step`` call by call; each call with what it was bound to, as soon as it has run.

        What it wrote may be changed before the next call runs. Device graphs are left aside.
        """
        symbols = Symbols(step.sizes, step.real)
        self._inputs.fill(step)
        for position, call in enumerate(self._plan.calls):
            self._run(self._binder.bind(position, position, symbols))
            yield call, self._binder.arguments(position, symbols)

    def arguments(self, step: Step, position: int) -> dict[str, Any]:
        """What a call of ``step`` is bound to."""
        return self._binder.arguments(position, Symbols(step.sizes, step.real))

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """Bind all calls of steps of these sizes that are in no graph, so that no step waits for
        it."""
        symbols = Symbols(sizes, sizes)
        captured = self._captured.get(sizes[self._bucket], {})
        for number in range(len(self._plan.segments)):
            if number not in captured:
                self._thunks(number, symbols)

    def warm(self, step: Step) -> None:
        """Run ``step`` once and count nothing, so that kernels are compiled before they serve."""
        self._inputs.fill(step)
        self._run(self._bound(step).thunks[Part.WHOLE])

    def capture(self, step: Step) -> None:
        """Run ``step`` once, and keep each captured segment that is the same for all steps of its
        bucket as a device graph."""
        symbols, bucket = Symbols(step.sizes, step.sizes), step.sizes[self._bucket]
        self._inputs.fill(step)
        if self._guard_steps_left:  # a replayed graph can't be looked into
            self._run_guarded(symbols, {})
        captured: dict[int, tuple[Thunk, ...]] = {}
        started = perf_counter()
        for number, segment in enumerate(self._plan.segments):
            thunks = self._thunks(number, symbols)
            if not self._in_graphs[number]:
                self._run(thunks)
                continue
            try:
                replayed = self._graphs.capture(thunks)
            except GlmcError:
                raise
            except KERNEL_ERRORS as error:
                raise PlanError(
                    f"a segment can't be captured as a device graph: {error}",
                    place=f"{self._plan.name}, calls {segment.first} to {segment.last}, bucket "
                    f"{bucket}",
                    remedy="compile again without capture",
                ) from error
            if self._binder.ranges:
                calls = self._plan.calls
                name = graph_range(calls[segment.first], calls[segment.last])
                replayed = tuple(in_range(name, thunk) for thunk in replayed)
            captured[number] = replayed
        self._captured[bucket], self._captured_sizes[bucket] = captured, symbols
        seconds = perf_counter() - started
        self._statistics.count_capture(self._plan.name, bucket, len(captured), seconds)
        count, taken = len(captured), seconds_text(seconds)
        _LOG.info("%s, bucket %d: %d graphs in %s", self._plan.name, bucket, count, taken)

    def _bind(self, key: tuple[Any, ...], symbols: Symbols) -> BoundStep:
        phase = self._plan.phase
        if not phase.allows(symbols) or not phase.allows(symbols.real):
            raise PlanError(
                f"no step of {phase.name} has these sizes",
                expected=f"{', '.join(phase.symbols)} as the phase relates them",
                found=", ".join(f"{name} {size}" for name, size in symbols.items()),
            )
        captured = self._captured.get(symbols[self._bucket], {})
        segments = tuple(
            captured.get(number) or self._thunks(number, symbols)
            for number in range(len(self._plan.segments))
        )
        thunks = {
            part: merged(thunk for number in numbers for thunk in segments[number])
            for part, numbers in self._parts.items()
        }
        binder = self._binder
        bound = BoundStep(
            thunks,
            segments,
            binder.output(symbols),
            binder.greedy(symbols),
            hidden := binder.hidden(symbols) if Part.HEAD in self._parts else None,
            hidden if self._kept_hidden is None else self._kept_hidden[: symbols.real["tokens"]],
        )
        self._steps[key] = bound
        if self._keep is not None and len(self._steps) > self._keep:
            self._steps.popitem(last=False)
        return bound

    def _thunks(self, number: int, symbols: Symbols) -> tuple[Thunk, ...]:
        """A segment; before the calls of the first one comes what fills its inputs, and after the
        last one of the body its hidden states are copied to where they are kept."""
        segment = self._plan.segments[number]
        calls = self._binder.bind(segment.first, segment.last, symbols)
        return (*self._before(number, symbols), *calls, *self._after(number, symbols))

    def _before(self, number: int, symbols: Symbols) -> tuple[Thunk, ...]:
        return self._inputs.thunks(symbols) if number == 0 else ()

    def _after(self, number: int, symbols: Symbols) -> tuple[Thunk, ...]:
        if not self._keeps_hidden_after(number):
            return ()
        hidden = self._binder.hidden(symbols)
        assert hidden is not None  # there is a body where there is a head
        assert self._kept_hidden is not None
        return (partial(self._kept_hidden[: len(hidden)].copy_, hidden),)

    def _keeps_hidden_after(self, number: int) -> bool:
        return self._kept_hidden is not None and number == self._parts[Part.BODY][-1]

    def _places(self, number: int, count: int) -> tuple[Place, ...]:
        """What each of the ``count`` thunks of a segment is for; see :meth:`_thunks`."""
        segment = self._plan.segments[number]
        calls = range(segment.first, segment.last + 1)
        after = (KEPT_HIDDEN,) * self._keeps_hidden_after(number)
        return (*(STEP_INPUTS,) * (count - len(calls) - len(after)), *calls, *after)

    def _run(self, thunks: tuple[Thunk, ...]) -> None:
        thunk = None
        try:
            for thunk in thunks:
                thunk()
        except GlmcError:
            raise
        except KERNEL_ERRORS as error:
            raise explained(self._binder.call_of(failed_member(thunk)), error) from error

    def _run_guarded(
        self, symbols: Symbols, captured: dict[int, tuple[Thunk, ...]], part: Part = Part.WHOLE
    ) -> None:
        for number in self._parts[part]:
            if number in captured:
                self._run_segment(number, captured[number], symbols[self._bucket])
                continue
            thunks = self._thunks(number, symbols)
            for place, thunk in zip(self._places(number, len(thunks)), thunks, strict=True):
                if isinstance(place, str) or not is_vendor(self._plan.calls[place].function):
                    with self._called(place):
                        self._run((thunk,))
                    continue
                try:
                    self._run_vendor(place, thunk, symbols)
                except GlmcError:
                    raise
                except KERNEL_ERRORS as error:
                    raise explained(self._binder.call_of(thunk), error) from error
        if part is not Part.HEAD:
            self._statistics.count_guard_step(self._plan.name)

    def _run_vendor(self, position: int, thunk: Thunk, symbols: Symbols) -> None:
        def called() -> object:
            with self._called(position):
                return thunk()

        call, arguments = self._plan.calls[position], self._binder.arguments(position, symbols)
        run_guarded(call, arguments, called)

    def _run_segments(self, bound: BoundStep, bucket: int, part: Part) -> None:
        for number in self._parts[part]:
            started = perf_counter()
            self._run_segment(number, bound.segments[number], bucket)
            if self._statistics.timing:
                self._graphs.wait()
                elapsed = perf_counter() - started
                self._statistics.count_segment(self._plan.name, bucket, number, elapsed)

    def _run_segment(self, number: int, thunks: tuple[Thunk, ...], bucket: int) -> None:
        """A segment that the timer, where there is one, is told of."""
        if self._timer is None:
            self._run(thunks)
        elif self._graphs.on_device and number in self._captured.get(bucket, {}):
            with self._timer.graph(self._device_graph(bucket, number)):
                self._run(thunks)
        else:
            for place, thunk in zip(self._places(number, len(thunks)), thunks, strict=True):
                with self._timer.call(place):
                    self._run((thunk,))

    def _device_graph(self, bucket: int, number: int) -> DeviceGraph:
        graphs, symbols = self._graphs, self._captured_sizes[bucket]
        if not isinstance(graphs, CudaGraphs) or self._binder.in_group:
            return DeviceGraph(self._plan.name, bucket, number, None)
        cuda = graphs

        def recapture(look: Callable[[int], Looked]) -> list[tuple[Place, Looked]]:
            thunks = self._thunks(number, symbols)
            found = cuda.captured_again(thunks, look)
            return list(zip(self._places(number, len(thunks)), found, strict=True))

        return DeviceGraph(self._plan.name, bucket, number, recapture)

    def _called(self, place: Place) -> AbstractContextManager[object]:
        return nullcontext() if self._timer is None else self._timer.call(place)

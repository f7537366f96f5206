"""The machine of a recorded run: an artifact in memory whose phases hand out their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from glmc_runtime.command.units import bytes_text
from glmc_runtime.engine.assemble import Machine
from glmc_runtime.engine.greedy_tokens import GreedyLauncher
from glmc_runtime.engine.loaded import LoadedArtifact
from glmc_runtime.errors import CapacityError, RequestError
from glmc_runtime.format.cache import SCRATCH_BLOCK
from glmc_runtime.format.phases import PhaseKey
from glmc_runtime.record.plan_values import RecordedValue
from glmc_runtime.record.replays import CalledPhase, RecordedPhase, TappedPhase
from glmc_runtime.record.step_form import StepForm
from glmc_runtime.record.taps import TapGroup, TappedBinder, tap_groups
from glmc_runtime.replay.arena import Arena
from glmc_runtime.replay.bind import Memory, PhaseBinder
from glmc_runtime.replay.cache import KVCache
from glmc_runtime.replay.phase import PhaseReplay

_NOTHING = (TapGroup((), (), 0),)


class RecordedPhases:
    """Makes the phases of a run: ``forms`` are those of its steps, ``limit`` the bytes of tap
    memory. With ``graph`` they are replayed with taps in them, else called one by one."""

    def __init__(
        self,
        loaded: LoadedArtifact,
        cache: KVCache,
        values: Mapping[PhaseKey, Sequence[RecordedValue]],
        forms: Mapping[PhaseKey, StepForm],
        graph: bool,
        limit: int,
    ) -> None:
        self._loaded, self._cache, self._forms = loaded, cache, forms
        self._graphs = loaded.graphs(capture=graph)
        self._groups = {
            key: tap_groups(loaded.artifact.plans[key], values[key], form.sizes, limit)
            if graph
            else (TapGroup(tuple(values[key]), (), 0),)
            for key, form in forms.items()
        }
        sizes = (group.size for groups in self._groups.values() for group in groups)
        self._taps = self._arena(max(sizes, default=0)) if graph else None

    def make(self) -> dict[PhaseKey, RecordedPhase]:
        """All phases of the artifact; those that no step runs in have no values."""
        return {key: self._phase(key) for key in self._loaded.entries}

    def _arena(self, size: int) -> Arena:
        try:
            return Arena(size, self._loaded.device)
        except CapacityError as error:
            raise CapacityError(
                "the tap memory does not fit into memory",
                place=str(self._loaded.device),
                expected=bytes_text(size),
                remedy="lower --tap-memory, record fewer --layers, or record with --calls",
            ) from error

    def _phase(self, key: PhaseKey) -> RecordedPhase:
        loaded, groups = self._loaded, self._groups.get(key, _NOTHING)
        plan, inputs = loaded.artifact.plans[key], loaded.step_inputs(key)
        memory = Memory(
            loaded.arena, inputs, loaded.weights, self._cache, loaded.vendor, loaded.group
        )
        keep = plan.phase.bindings_kept

        def replayed(binder: PhaseBinder) -> PhaseReplay:
            return PhaseReplay(
                binder, inputs, self._graphs, loaded.statistics, keep, watch=loaded.watch
            )

        if self._taps is None:
            called = PhaseBinder(plan, memory, keep)
            return CalledPhase(replayed(called), called, groups, self._cache)
        binders = [TappedBinder(each, self._taps, plan, memory, keep) for each in groups]
        replays = [replayed(binder) for binder in binders]
        for replay in replays:
            self._capture(key, replay)
        return TappedPhase(replays, binders, groups, self._cache)

    def _capture(self, key: PhaseKey, replay: PhaseReplay) -> None:
        """Of the buckets that are recorded alone."""
        form, entry = self._forms.get(key), self._loaded.entries[key]
        buckets = () if form is None else tuple(sorted(form.buckets))
        limited = replace(self._loaded, entries={key: replace(entry, buckets=buckets)})
        limited.capture({key: replay}, self._graphs, self._cache.spec.block_size, SCRATCH_BLOCK)


def recording_machine(
    loaded: LoadedArtifact, cache: KVCache, phases: Mapping[PhaseKey, RecordedPhase]
) -> Machine:
    """What an engine of these phases runs on."""
    return Machine(
        loaded.device,
        cache,
        phases,
        loaded.prefill_buckets,
        loaded.decode_buckets,
        loaded.max_context,
        loaded.statistics,
        loaded.stream_order,
        loaded.exclusive,
        _no_greedy,
    )


def _no_greedy(rows: int) -> GreedyLauncher:
    raise RequestError("a recorded step gives logits, and no step is enqueued ahead")

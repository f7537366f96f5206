"""Steps of the shipped models on a CPU: calls of C that follow each other are one, with the bits of
calls one by one, and what looks at calls sees each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import pytest
import torch
from torch import Tensor

import glmc_runtime
from glmc_runtime.errors import PlanError
from glmc_runtime.format.dependence import Symbols
from glmc_runtime.format.phases import DECODE, PREFILL, PhaseKey
from glmc_runtime.format.plan import PhasePlan, place_of
from glmc_runtime.generate.session import Session
from glmc_runtime.kernels import Thunk
from glmc_runtime.kernels.cpu.native_call import NativeCall, NativeCalls
from glmc_runtime.replay.bound_step import BoundStep, Part
from glmc_runtime.replay.phase import PhaseReplay
from tests.e2e.build import CPU, Builder
from tests.e2e.ranks import RankedBuilder, with_ranks
from tests.runtime.kernels.failing_calls import experts, without_room
from tests.runtime.kernels.instruction_sets import each_instruction_set as each_instruction_set

pytestmark = pytest.mark.usefixtures("shared_captures")
MODELS = Path(__file__).parents[2] / "models"
SMALL = {"prefill_buckets": (16, 64), "decode_buckets": (1, 4), "max_context": 128}
TEXTS = [[40, 50, 60], [33] * 8, list(range(100, 130))]
Paths = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paths]:
    """An artifact of each model and dtype."""
    made: dict[tuple[str, str], Path] = {}
    folder = tmp_path_factory.mktemp("merged")

    def path(name: str, dtype: str) -> Path:
        if (name, dtype) not in made:
            builder = Builder(MODELS / name, folder / f"{name}.{dtype}")
            made[name, dtype] = builder.artifact(CPU, dtype, **SMALL)
        return made[name, dtype]

    yield path


def logits_of(session: Session) -> list[Tensor]:
    """Of packed prompts and a batch that grows out of them, of one prompt and one text, and what
    is in the caches at last."""
    found = []
    for texts in (TEXTS, TEXTS[:1]):
        sequences = [session.sequence(text) for text in texts]
        found.append(session.prefill(sequences).clone())
        found += [session.decode(sequences, [n] * len(texts)).clone() for n in (5, 6, 7)]
        cache = phase(session, DECODE.key)[0]._binder._memory.cache
        found += [cache.tensor(name, 0).clone() for name in ("key", "value")]
        for sequence in sequences:
            session.release(sequence)
    return found


def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are left one by one."""
    monkeypatch.setattr("glmc_runtime.replay.phase.merged", tuple)


def phase(session: Session, key: PhaseKey) -> tuple[PhaseReplay, PhasePlan, list[BoundStep]]:
    replay = session._replays[key]
    assert isinstance(replay, PhaseReplay)
    return replay, session.artifact.plans[key], list(replay._steps.values())


@pytest.mark.usefixtures("each_instruction_set")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["tiny-dense", "tiny-moe"])
def test_merged_calls_have_the_bits_of_calls_one_by_one(
    paths: Paths, name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = glmc_runtime.load(paths(name, dtype))
    found = logits_of(session)
    for key in (PREFILL.key, DECODE.key):
        assert any(
            isinstance(thunk, NativeCalls)
            for step in phase(session, key)[2]
            for thunk in step.thunks[Part.WHOLE]
        )
    with monkeypatch.context() as patch:
        apart(patch)
        expected = logits_of(glmc_runtime.load(paths(name, dtype)))
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("name", ["tiny-dense", "tiny-moe"])
def test_a_decode_step_is_one_call_of_c(paths: Paths, name: str) -> None:
    """After the embedding, which is torch's."""
    session = glmc_runtime.load(paths(name, "bfloat16"))
    logits_of(session)
    _, plan, steps = phase(session, DECODE.key)
    for step in steps:
        first, calls = step.thunks[Part.WHOLE]
        assert not isinstance(first, NativeCall) and isinstance(calls, NativeCalls)
        assert (first, *calls.calls) == tuple(thunk for part in step.segments for thunk in part)
        assert len(calls.calls) == len(plan.calls) - 1


@pytest.mark.parametrize(
    ("make", "kind"), [(lambda: experts(1)[0], IndexError), (without_room, MemoryError)]
)
def test_the_call_that_fails_is_named(
    paths: Paths, make: Callable[[], NativeCall], kind: type[Exception]
) -> None:
    session = glmc_runtime.load(paths("tiny-moe", "float32"))
    replay, plan, _ = phase(session, DECODE.key)
    last = max(place for place, call in enumerate(plan.calls) if call.function == "cpu.moe_ffn")
    binder = replay._binder
    bind_call, bad = binder._bind_call, make()

    def changed(position: int, symbols: Symbols) -> Thunk:
        return bad if position == last else bind_call(position, symbols)

    binder._bind_call = changed  # type: ignore[method-assign]
    sequence = session.sequence(TEXTS[0])
    session.prefill([sequence])
    with pytest.raises(PlanError) as caught:
        session.decode([sequence], [5])
    assert caught.value.place == place_of(plan.calls[last])
    assert isinstance(caught.value.__cause__, kind)
    assert str(caught.value.__cause__) in str(caught.value)


def test_what_looks_at_calls_sees_each(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Times of segments, timelines, ranges, guarded and traced steps merge nothing."""
    path = paths("tiny-dense", "float32")
    session = glmc_runtime.load(path)
    expected = logits_of(session)

    def refuse(self: NativeCalls) -> None:
        raise AssertionError("a merged call runs")

    monkeypatch.setattr(NativeCalls, "__call__", refuse)
    with pytest.raises(PlanError, match="a merged call runs"):
        session.prefill([session.sequence(TEXTS[1])])
    for timing in (True, False):
        watched = glmc_runtime.load(path, timing=timing, profile_ranges=not timing)
        assert all(map(torch.equal, logits_of(watched), expected))
    session = glmc_runtime.load(path)
    with session.timeline(tmp_path / "timeline.json"):
        assert all(map(torch.equal, logits_of(session), expected))
    for replay in session._replays.values():
        assert isinstance(replay, PhaseReplay)
        replay._guard_steps_left = 100
        replay._plain = replay._is_plain()
    assert all(map(torch.equal, logits_of(session), expected))


def test_a_traced_step_is_call_by_call(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    session = glmc_runtime.load(paths("tiny-dense", "float32"))
    replay, plan, _ = phase(session, DECODE.key)
    run, seen = replay.run, []

    def traced(step: object) -> Tensor:
        seen.append([call for call, _ in replay.trace(step)])  # type: ignore[arg-type]
        logits = replay._bound(step).logits.clone()  # type: ignore[arg-type]
        assert torch.equal(run(step), logits)  # type: ignore[arg-type]
        return logits

    sequence = session.sequence(TEXTS[0])
    session.prefill([sequence])
    monkeypatch.setattr(replay, "run", traced)
    session.decode([sequence], [5])
    assert seen == [list(plan.calls)]


@pytest.mark.long
def test_calls_between_ranks_stay_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = RankedBuilder(MODELS / "tiny-dense", tmp_path, {"block_size": 16, **SMALL})
    path = builder.artifact(CPU, "bfloat16", tensor_parallel=2)

    def act(session: Session) -> tuple[list[Tensor], list[int], list[bool]]:
        """Logits, how many calls each thunk of a step has, and which calls are between ranks."""
        found = logits_of(session)
        _, plan, (*_, step) = phase(session, DECODE.key)
        together = [
            len(thunk.calls) if isinstance(thunk, NativeCalls) else 1
            for thunk in step.thunks[Part.WHOLE]
        ]
        return found, together, [call.function.startswith("collective.") for call in plan.calls]

    found = with_ranks(path, act)
    with monkeypatch.context() as patch:
        apart(patch)
        expected = with_ranks(path, act)
    for (ours, together, of_ranks), (theirs, one_by_one, _) in zip(found, expected, strict=True):
        assert all(map(torch.equal, ours, theirs))
        assert one_by_one == [1] * len(of_ranks)
        between = [(many, len(list(calls))) for many, calls in groupby(of_ranks)]
        assert sum(many for many, _ in between) > 2 and max(together) > 2
        start = 0
        for count in together:
            assert count == 1 or not any(of_ranks[start : start + count])
            start += count
        assert start == len(of_ranks)
        assert len(together) <= 1 + len(between) + sum(n for many, n in between if many)

"""Threads, forks, dropped iterators: a session gives right tokens to all who may use it."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import glmc_runtime
from glmc_runtime.engine.exclusive import Exclusive
from glmc_runtime.engine.sampling import SamplingParameters
from glmc_runtime.engine.sequences import SequenceStep
from glmc_runtime.errors import CapacityError, RequestError
from glmc_runtime.generate.events import Event
from glmc_runtime.generate.session import Session
from glmc_runtime.replay.phase import PhaseReplay
from tests.runtime.toy import reference_greedy, write_toy

PROMPTS = [[3, 14, 15], [9, 2, 6, 5, 3, 5], [1], list(range(30)), [8, 9], [40, 41], [50]]
LENGTH = 8
RIGHT = [reference_greedy(prompt, LENGTH) for prompt in PROMPTS]


@pytest.fixture(params=[False, True], ids=["plain", "greedy plans"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    """A session whose replay fails where two threads are in it at once."""
    session = glmc_runtime.load(write_toy(tmp_path / "toy", greedy=request.param))
    inside: list[int] = []

    def watched(run: Callable[..., Any]) -> Callable[..., Any]:
        def alone(*arguments: Any) -> Any:
            inside.append(threading.get_ident())
            try:
                threading.Event().wait(0.0005)  # another thread would come in here
                assert len(inside) == 1, "two threads are in one step"
                return run(*arguments)
            finally:
                inside.remove(threading.get_ident())

        return alone

    for replay in session._replays.values():
        replay._run_step = watched(replay._run_step)  # type: ignore[method-assign]
    yield session
    assert session.cache.allocator.available == session.cache.allocator.usable


def _generate(session: Session, number: int) -> bool:
    found = session.generate([PROMPTS[number]], max_new_tokens=LENGTH, ignore_eos=True)
    return [completion.tokens for completion in found] == [RIGHT[number]]


def _stream(session: Session, number: int) -> bool:
    events = session.stream(PROMPTS[number], max_new_tokens=LENGTH, ignore_eos=True)
    return [event.token for event in events] == RIGHT[number]


def _leave(session: Session, number: int) -> bool:
    stream = session.stream(PROMPTS[number], max_new_tokens=LENGTH, ignore_eos=True)
    found = [next(stream).token for _ in range(3)]
    stream.close()
    return found == RIGHT[number][:3] and list(stream) == []


def _drop(session: Session, number: int) -> bool:
    stream = session.stream(PROMPTS[number], max_new_tokens=LENGTH, ignore_eos=True)
    return next(stream).token == RIGHT[number][0]


def _decode(session: Session, number: int) -> bool:
    sequence = session.sequence(PROMPTS[number])
    token = int(session.prefill([sequence]).argmax())
    twin, found = session.fork(sequence), [token]
    for _ in range(LENGTH - 1):
        found.append(int(session.decode([sequence], [found[-1]]).argmax()))
    session.truncate(sequence, len(PROMPTS[number]))
    again = int(session.step([SequenceStep(twin, (token,))]).argmax())
    session.release(sequence)
    session.release(twin)
    return found == RIGHT[number] and again == found[1]


def _ahead(session: Session, number: int) -> bool:
    if not session.greedy:
        return True
    sequence = session.sequence(PROMPTS[number])
    (token,) = session.step_greedy([SequenceStep(sequence)])
    with session.greedy_steps([sequence], [token]) as steps:
        found = [token, *(next(steps)[0] for _ in range(LENGTH - 1))]
    session.release(sequence)
    return found == RIGHT[number]


WAYS = (_generate, _stream, _leave, _drop, _decode, _ahead)


def test_many_threads_in_many_ways(shared: Session) -> None:
    def work(thread: int) -> list[str]:
        jobs = [(WAYS[(thread + turn) % len(WAYS)], (3 * thread + turn) % 7) for turn in range(7)]
        return [f"{way.__name__} {number}" for way, number in jobs if not way(shared, number)]

    with ThreadPoolExecutor(6) as pool:
        assert [wrong for wrongs in pool.map(work, range(6)) for wrong in wrongs] == []


def test_threads_that_share_one_stream_get_each_event_once(shared: Session) -> None:
    stream = shared.stream(PROMPTS[:4], max_new_tokens=LENGTH, ignore_eos=True)
    with ThreadPoolExecutor(4) as pool:
        lots = list(pool.map(lambda _: list(stream), range(4)))
    events = [event for lot in lots for event in lot]
    assert len(events) == 4 * LENGTH
    for number in range(4):
        tokens = [event.token for event in events if event.request == number]
        assert sorted(tokens) == sorted(RIGHT[number])


def test_a_stream_that_is_closed_while_an_event_is_taken_ends(shared: Session) -> None:
    class Full(deque[Event]):
        """As it was when it was looked at, just before another thread closed the stream."""

        def __bool__(self) -> bool:
            return True

    stream = shared.stream(PROMPTS[:1], max_new_tokens=2)
    stream._ready = Full()
    assert list(stream) == []
    stream.close()


def test_a_seeded_request_is_the_same_whatever_other_threads_do(shared: Session) -> None:
    sampling = SamplingParameters(1.2, top_p=0.9, seed=4)
    alone = shared.generate(PROMPTS[1], max_new_tokens=LENGTH, sampling=sampling)

    def work(thread: int) -> bool:
        if thread % 2:
            return _generate(shared, thread)
        return shared.generate(PROMPTS[1], max_new_tokens=LENGTH, sampling=sampling) == alone

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(6)))


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("kv_blocks", [9, 12])
def test_threads_wait_for_blocks_that_others_of_them_hold(
    tmp_path: Path, greedy: bool, kv_blocks: int
) -> None:
    """Each needs nearly all blocks to end; no one is refused, and no token changes."""
    session = glmc_runtime.load(write_toy(tmp_path / "toy", greedy=greedy), kv_blocks=kv_blocks)
    expected = [reference_greedy(prompt, 26) for prompt in PROMPTS[:3]]

    def work(thread: int) -> list[bool]:
        found = [
            session.generate([PROMPTS[n], PROMPTS[(n + 1) % 3]], max_new_tokens=26, ignore_eos=True)
            for n in ((thread + turn) % 3 for turn in range(3))
        ]
        wanted = [(thread + turn) % 3 for turn in range(3)]
        return [
            [one.tokens for one in pair] == [expected[n], expected[(n + 1) % 3]]
            for pair, n in zip(found, wanted, strict=True)
        ]

    with ThreadPoolExecutor(4) as pool:
        assert [right for rights in pool.map(work, range(4)) for right in rights] == [True] * 12
    assert session.cache.allocator.available == kv_blocks - 1
    held = session.sequence([1] * 16)
    session.prefill([held])
    with (
        ThreadPoolExecutor(2) as pool,
        pytest.raises(CapacityError, match="held by other sequences"),
    ):
        list(pool.map(work, range(2)))  # no one who works will ever give these back
    session.release(held)
    assert session.cache.allocator.available == kv_blocks - 1


def test_the_body_of_a_loop_may_generate(shared: Session) -> None:
    outer = []
    for event in shared.stream(PROMPTS[0], max_new_tokens=LENGTH, ignore_eos=True):
        outer.append(event.token)
        assert _generate(shared, 1)
        assert _decode(shared, 4)
    assert outer == RIGHT[0]


def test_tasks_of_asyncio_take_turns(shared: Session) -> None:
    async def read(number: int) -> list[int]:
        found = []
        for event in shared.stream(PROMPTS[number], max_new_tokens=LENGTH, ignore_eos=True):
            found.append(event.token)
            await asyncio.sleep(0)
        return found

    async def all_of_them() -> list[list[int]]:
        threads = [asyncio.to_thread(_generate, shared, number) for number in range(3)]
        results = await asyncio.gather(*map(read, range(4)), *threads)
        assert results[4:] == [True] * 3
        return [found for found in results if isinstance(found, list)]

    assert asyncio.run(all_of_them()) == RIGHT[:4]


@pytest.mark.parametrize("greedy", [False, True])
def test_a_stream_that_the_collector_finds_inside_a_step_is_ended_behind_it(
    tmp_path: Path, greedy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = glmc_runtime.load(write_toy(tmp_path / "toy", greedy=greedy))
    allocator = session.cache.allocator
    stream = session.stream(PROMPTS[:3], max_new_tokens=LENGTH, ignore_eos=True)
    for _ in range(7):
        next(stream)
    cycle: list[object] = [stream]
    cycle.append(cycle)
    del stream
    held = allocator.usable - allocator.available
    assert held
    run, seen = PhaseReplay._run_step, []

    def collecting(self: PhaseReplay, *arguments: Any) -> Any:
        if cycle:
            cycle.clear()
            gc.collect()
        seen.append(allocator.usable - allocator.available)
        return run(self, *arguments)

    monkeypatch.setattr(PhaseReplay, "_run_step", collecting)
    sequence = session.sequence([5])
    session.prefill([sequence])
    assert seen == [held + 1]  # inside of the step nothing was given back
    assert allocator.usable - allocator.available == 1
    session.release(sequence)


def test_an_ending_of_another_thread_waits_for_nothing() -> None:
    exclusive, ended = Exclusive(), []
    with exclusive:
        thread = threading.Thread(target=exclusive.end, args=(lambda: ended.append(1),))
        thread.start()
        thread.join(10)
        assert not thread.is_alive() and ended == []
        with exclusive:
            exclusive.end(lambda: ended.append(2))
        assert ended == []
    assert ended == [1, 2]
    exclusive.end(lambda: ended.append(3))
    assert ended == [1, 2, 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_fork_of_the_process_is_refused(session: Session) -> None:
    stream = session.stream(PROMPTS[0], max_new_tokens=LENGTH, ignore_eos=True)
    next(stream)
    actions: list[Callable[[], object]] = [
        lambda: session.generate([[1]]),
        lambda: next(stream),
        lambda: session.prefill([session.sequence([1])]),
    ]
    child = os.fork()
    if not child:
        status = 0
        for action in actions:
            try:
                action()
                status = 1
            except RequestError as error:
                status |= 0 if "fork" in error.message else 2
        del stream
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [event.token for event in stream] == RIGHT[0][1:]

"""The controller's side: what is broken off leaves ranks in step, or ends them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from time import monotonic, sleep
from typing import Any, cast

import pytest

from glmc_runtime.engine.ranks.channel import Channel
from glmc_runtime.engine.ranks.launch import Ends, new_ends
from glmc_runtime.engine.ranks.messages import Decoder, Encoder, Kind, StepMessage, numbered
from glmc_runtime.engine.ranks.remote import Controller
from glmc_runtime.engine.ranks.watch import Watch
from glmc_runtime.errors import RankError
from glmc_runtime.replay.step import ScheduledTokens, Step
from tests.runtime.ranks.threads import Watched

pytestmark = pytest.mark.long

SYMBOLS: list[list[str]] = [[]]


class Ranks:
    """A controller of two ranks, and the ranks' ends of its channels."""

    def __init__(self) -> None:
        self.watch, self.ends = Watched(), [new_ends() for _ in range(2)]
        self.controller = Controller(cast(Watch, self.watch), self.ends, Encoder(SYMBOLS))
        self.channels = [Channel(each.rank_steps) for each in self.ends]
        self.decoder = Decoder(SYMBOLS)

    def read(self) -> StepMessage:
        first, second = (channel.receive() for channel in self.channels)
        assert first == second
        message = self.decoder.read(first)
        assert isinstance(message, StepMessage)
        return message

    def answer(self, number: int, answer: bytes) -> None:
        self.channels[0].send(numbered(number, answer))


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    made = Ranks()
    yield made
    made.controller.close()
    for each in made.ends:
        each.close()


def step(*rows: list[int]) -> Step:
    return Step([ScheduledTokens((1,), 9, blocks) for blocks in rows], len(rows), len(rows), 16)


def blocks(message: StepMessage) -> list[list[int]]:
    return [chunk.blocks for chunk in message.step.chunks]


def test_answers_are_those_of_their_questions(ranks: Ranks) -> None:
    first, second = (ranks.controller.ask_step(Kind.RUN, 0, step([4])) for _ in range(2))
    ranks.answer(0, b"one")
    ranks.answer(1, b"two")
    assert ranks.controller.wait(second) == b"two" and first.answer == b"one"


def test_a_step_that_was_never_sent_leaves_the_next_one_whole(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = ranks.controller
    controller.ask_step(Kind.RUN, 0, step([4]))
    assert blocks(ranks.read()) == [[4]]
    with monkeypatch.context() as patch:
        patch.setattr(controller, "tell", broken_off)
        with pytest.raises(KeyboardInterrupt):
            controller.ask_step(Kind.RUN, 0, step([4, 5], [6]))
    second = controller.ask_step(Kind.RUN, 0, step([4, 5], [6]))
    assert blocks(ranks.read()) == [[4, 5], [6]] and not ranks.watch.over
    ranks.answer(0, b"one")
    ranks.answer(1, b"two")
    assert controller.wait(second) == b"two"


def test_a_step_that_some_ranks_have_ends_all(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks.ends[1].steps, "send", broken_off)
    with pytest.raises(KeyboardInterrupt):
        ranks.controller.ask_step(Kind.RUN, 0, step([4]))
    assert ranks.watch.over
    monkeypatch.undo()
    with pytest.raises(RankError, match="killed"):
        ranks.controller.ask_step(Kind.RUN, 0, step([4]))


def test_an_answer_that_was_lost_ends_all(ranks: Ranks) -> None:
    ticket = ranks.controller.ask_step(Kind.RUN, 0, step([4]))
    ranks.answer(1, b"of another step")
    with pytest.raises(RankError, match="was lost") as caught:
        ranks.controller.wait(ticket)
    assert (caught.value.expected, caught.value.found) == ("answer 0", "answer 1")
    assert ranks.watch.over


def test_the_last_message_waits_for_the_end_of_another(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that one thread closes while another takes a step."""
    sent: list[Any] = []
    send = ranks.ends[1].steps.send

    def slow(message: bytes) -> None:
        sleep(0.1 if not sent else 0)
        sent.append(message)
        send(message)

    monkeypatch.setattr(ranks.ends[1].steps, "send", slow)
    closing = threading.Timer(0.02, ranks.controller.close)
    closing.start()
    ranks.controller.ask_step(Kind.RUN, 0, step([4]))
    closing.join()
    assert blocks(ranks.read()) == [[4]]
    assert sent[1:] == [Encoder.numbers(Kind.STOP)]


def test_who_waits_for_an_answer_goes_on_whoever_has_the_other_end() -> None:
    ends: Ends = new_ends()
    elsewhere = ends.rank_steps.dup()  # as a fork of this process has it
    threading.Timer(0.05, ends.steps.end).start()
    started = monotonic()
    with pytest.raises(ConnectionError):
        ends.steps.receive()
    assert monotonic() - started < 5
    elsewhere.close()
    ends.close()


def broken_off(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_each_rank_answers_is_in_their_order(ranks: Ranks) -> None:
    ranks.controller.new_launcher()
    ranks.channels[1].send(numbered(2, b"second"))
    ranks.answer(0, b"first")
    assert ranks.controller.ask_all(Kind.END_TIMES) == [b"first", b"second"]
    assert [channel.receive() for channel in ranks.channels] == [
        Encoder.numbers(Kind.END_TIMES, 2)
    ] * 2
    assert not ranks.watch.over


def test_an_answer_to_another_question_ends_all(ranks: Ranks) -> None:
    ranks.answer(0, b"first")
    ranks.channels[1].send(numbered(7, b"of another question"))
    with pytest.raises(RankError, match="another question") as caught:
        ranks.controller.ask_all(Kind.END_TIMES)
    assert (caught.value.expected, caught.value.found) == ("answer 1", "answer 7")
    assert ranks.watch.over


def test_answers_of_all_that_nobody_waits_for_any_longer_end_all(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank with an answer larger than a socket holds would read no step that comes after it."""
    monkeypatch.setattr(ranks.controller, "wait", broken_off)
    with pytest.raises(KeyboardInterrupt):
        ranks.controller.ask_all(Kind.END_TIMES)
    assert ranks.watch.over

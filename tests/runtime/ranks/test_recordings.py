"""Times of a rank as bytes, and what is no such thing."""

from __future__ import annotations

import pytest

from glmc_runtime.engine.ranks import recordings
from glmc_runtime.engine.ranks.recordings import recording_from_bytes, recording_to_bytes
from glmc_runtime.errors import RankError
from glmc_runtime.replay.timeline.records import CallTime, Recording, StepSizes, StepTime

RECORDING = Recording(
    (StepTime(0, "decode", StepSizes(2, 2, 4, None, None), False, True, 1.5, 9.25),),
    (CallTime(0, "step inputs", 2.0, 3.0), CallTime(0, 7, 3.0, 8.125)),
    "exact",
)


def test_a_recording_comes_back_as_it_was() -> None:
    assert recording_from_bytes(recording_to_bytes(RECORDING)) == RECORDING


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"steps": [[1]], "calls": []}'])
def test_what_is_no_recording_is_an_error_with_a_code(data: bytes) -> None:
    with pytest.raises(RankError, match="not well formed"):
        recording_from_bytes(data)


def test_more_than_a_message_has_room_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "LARGEST", 100)
    with pytest.raises(RankError, match="more calls than it can tell") as caught:
        recording_to_bytes(RECORDING)
    assert caught.value.expected == "at most 100 bytes" and caught.value.remedy

"""What the host of a rank has timed, as bytes: JSON, in which a call is a row."""

from __future__ import annotations

import json
from dataclasses import astuple
from typing import Any

from glmc_runtime.engine.ranks.channel import LARGEST
from glmc_runtime.errors import RankError
from glmc_runtime.replay.timeline.records import CallTime, Recording, StepSizes, StepTime

_NUMBER = 16
"""Bytes beside them in a message, at most."""


def recording_to_bytes(recording: Recording) -> bytes:
    """Raises :class:`RankError` for more than a message may have."""
    said = {
        "steps": [astuple(step) for step in recording.steps],
        "calls": [(call.step, call.place, call.begin, call.end) for call in recording.calls],
        "attribution": recording.attribution,
    }
    made = json.dumps(said, separators=(",", ":")).encode()
    if len(made) > LARGEST - _NUMBER:
        raise RankError(
            "a rank has timed more calls than it can tell",
            expected=f"at most {LARGEST:,} bytes",
            found=f"{len(made):,} bytes of {len(recording.calls):,} calls",
            remedy="write a timeline of fewer steps",
        )
    return made


def recording_from_bytes(data: bytes) -> Recording:
    """What :func:`recording_to_bytes` was made of; raises :class:`RankError`."""
    try:
        said = json.loads(data)
        steps = tuple(map(_step, said["steps"]))
        calls = tuple(CallTime(*row) for row in said["calls"])
        return Recording(steps, calls, said["attribution"])
    except (ValueError, TypeError, KeyError) as error:
        raise RankError(f"the times of a rank are not well formed: {error!r}") from error


def _step(row: list[Any]) -> StepTime:
    number, phase, sizes, *rest = row
    return StepTime(number, phase, StepSizes(*sizes), *rest)

"""Named ranges around replayed calls, so that a profiler's timeline says which node each one is.

They cost host time in every call, so only a session that was loaded with ``profile_ranges`` has
them; the thunks of any other are as they were. A range is called ``FUNCTION NODE``: the function
of the plan and the id that the node has had since capture, which ``glmc inspect --node`` follows
back to the model. A replayed device graph is one range, named by its first and last call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

import torch
from torch.profiler import ProfilerActivity, profile, record_function, supported_activities

from glmc_runtime.errors import RequestError
from glmc_runtime.format.plan import Call
from glmc_runtime.kernels import Thunk


def call_range(call: Call) -> str:
    """The name of a call's range."""
    return f"{call.function} {call.node}"


def graph_range(first: Call, last: Call) -> str:
    """The name of the range of a device graph that holds the calls ``first`` to ``last``."""
    return f"graph {call_range(first)} .. {call_range(last)}"


def in_range(name: str, thunk: Thunk) -> Thunk:
    """``thunk`` inside a range; returns what it returns."""

    def run() -> object:
        with record_function(name):
            return thunk()

    return run


@contextmanager
def timeline(
    path: str | PathLike[str], emulated: bool, interpreted: bool = False
) -> Iterator[None]:
    """Profile the body and write a timeline that chrome://tracing and Perfetto open.

    It holds the processor's ops and, where torch can see it, the device's kernels. An emulated or
    interpreted run says so in the metadata of the file. Raises :class:`RequestError` when it can't
    be written.
    """
    wanted = {ProfilerActivity.CPU, ProfilerActivity.CUDA} & set(supported_activities())
    if not torch.cuda.is_available():
        wanted.discard(ProfilerActivity.CUDA)
    _check_writable(path)
    with profile(activities=sorted(wanted, key=str)) as profiler:
        if emulated:
            profiler.add_metadata("emulated", "no Kunlun hardware was used")
        if interpreted:
            profiler.add_metadata("interpreted", "no GPU was used")
        yield
    profiler.export_chrome_trace(str(path))


def _check_writable(path: str | PathLike[str]) -> None:
    """A path that can't be written is refused before the work, not after it."""
    try:
        with open(path, "w", encoding="utf-8"):
            pass
    except OSError as error:
        raise RequestError(
            f"the timeline can't be written: {error.strerror}",
            place=str(path),
            remedy="name a file in a folder that exists",
        ) from error

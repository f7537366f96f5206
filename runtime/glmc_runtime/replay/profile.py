"""Named ranges around replayed calls, so that a profiler of the caller's says which node each is.

They cost host time in every call, so only a session that was loaded with ``profile_ranges`` has
them; the thunks of any other are as they were. A range is called ``FUNCTION NODE``: the function
of the plan and the id that the node has had since capture, which ``glmc inspect --node`` follows
back to the model. A replayed device graph is one range, named by its first and last call. What the
runtime writes itself is in :mod:`glmc_runtime.replay.timeline`.
"""

from __future__ import annotations

from torch.profiler import record_function

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

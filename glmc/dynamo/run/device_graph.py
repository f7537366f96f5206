"""The bound calls of a traced program as one device graph, cached while addresses are stable.

A graph freezes addresses and sizes. Calls over the same ones are counted; the third in a row is
captured while it runs, and from then on the graph is replayed. As soon as an address or size
changes, the graph is dropped, and counting begins anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Hashable, Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

from glmc.dynamo.compile.normal_form import Placeholder
from glmc.dynamo.options import PLACE
from glmc.errors import UsageError
from glmc.ir import match as m
from glmc.ir.program import Program
from glmc_runtime.errors import PlanError
from glmc_runtime.kernels import Thunk
from glmc_runtime.replay.graph import CudaGraphs, GraphCapture, GraphCaptureError

_LOG = logging.getLogger("glmc.graphs")
CALLS_BEFORE_CAPTURE = 3
"""Calls over the same memory, the captured one included, before there is a graph."""

_READS_HOST = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
_BY_INDEX = ("aten.index", "aten.index_put")


class CachedDeviceGraph:
    """``make`` gives the capture of the device, None where calls are always called one by one.

    ``required``: raise where a capture fails, instead of calling one by one from then on.
    """

    def __init__(self, make: Callable[[], GraphCapture] | None, required: bool = False) -> None:
        self._make = make
        self._required = required
        self._capture: GraphCapture | None = None
        self._key: Hashable = None
        self._seen = 0
        self._graph: tuple[Thunk, ...] | None = None
        self.captures = 0
        self.replays = 0
        self.failure: str | None = None
        """Why a capture failed, after which none is tried."""

    @property
    def is_cached(self) -> bool:
        """Whether there is a graph that the next call replays."""
        return self._graph is not None

    def drop(self) -> None:
        """Drop the graph and what it holds; called before anything that it reads is freed."""
        self._key, self._seen, self._graph = None, 0, None

    def thunks(self, key: Hashable, bound: tuple[Thunk, ...]) -> tuple[Thunk, ...]:
        """What is left to call for one call of the program over ``bound``, which ``key`` names; not
        to be asked while the caller captures a graph of his own."""
        if self._make is None or not bound:
            return bound
        if self.failure is not None:  # where a graph is required
            raise self._refusal()
        if key != self._key:
            self.drop()
            self._key = key
        if self._graph is not None:
            self.replays += 1
            return self._graph
        self._seen += 1
        if self._seen < CALLS_BEFORE_CAPTURE:
            return bound
        return self._captured(self._make, bound)

    def _captured(
        self, make: Callable[[], GraphCapture], bound: tuple[Thunk, ...]
    ) -> tuple[Thunk, ...]:
        """Capture, which runs ``bound`` once: nothing is left to call."""
        if self._capture is None:
            self._capture = make()
        try:
            self._graph = self._capture.capture(bound)
        except GraphCaptureError as error:
            self.failure = str(error)
            if self._required:
                raise self._refusal() from error
            self._make = None
            _warn(str(error))
            return ()
        self.captures += 1
        return ()

    def _refusal(self) -> PlanError:
        return PlanError(
            f"the device graph could not be captured: {self.failure}",
            place=PLACE,
            remedy="leave 'graph_capture' out of options: calls go one by one then",
        )


@cache
def _warn(reason: str) -> None:
    """Each reason once in a process: every graph of a program may have the same."""
    _LOG.warning("no device graph, so calls go one by one: %s", reason)


def inside_capture() -> bool:
    """Whether the caller captures a graph of his own, of which these calls become a part."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def capture_for(
    device: torch.device, wanted: bool | None, capture_blockers: Iterable[str], emulated: bool
) -> Callable[[], GraphCapture] | None:
    """The capture of graphs on ``device``, None where they can't be captured or must not.

    Raises UsageError where they are required (``wanted``) and something prevents them.
    """
    if wanted is False or device.type != "cuda":
        return None
    blockers = list(capture_blockers)
    if emulated:
        blockers.insert(0, "the vendor's library is emulated on the host")
    if not blockers:
        return lambda: CudaGraphs(one_at_a_time=True)
    if wanted:
        raise UsageError(
            "option 'graph_capture' asks for a device graph, which this graph can't be",
            place=PLACE,
            expected="values that stay on the device",
            found="; ".join(blockers[:3]),
            remedy="leave 'graph_capture' out of options: such calls go one by one then",
        )
    _LOG.info("no device graph: %s", "; ".join(blockers[:3]))
    return None


def capture_blockers(program: Program, hosts: Iterable[str]) -> Iterator[str]:
    """Why a program can't be a device graph: values in host memory, whose names are ``hosts``,
    results that the host reads, and random numbers."""
    for name in hosts:
        yield f"'{name}' is in host memory"
    for node in program.graph.nodes:
        reason = _capture_blocker(node) if isinstance(node.target, OpOverload) else None
        if reason is not None:
            yield f"{node.meta['id']}: {m.op_name(node)} {reason}"


def _capture_blocker(node: Node) -> str | None:
    tags = node.target.tags  # type: ignore[union-attr]
    if any(tag in tags for tag in _READS_HOST) and not m.is_op(node, *_BY_INDEX):
        return "has a result that the host reads"
    if torch.Tag.nondeterministic_seeded in tags and not _never_random(node):
        return "draws random numbers"
    if m.is_op(node, *_BY_INDEX) and any(map(_is_mask, _indices(node))):
        return "is indexed by a mask, which the host counts"
    return None


def _never_random(node: Node) -> bool:
    """An attention or a dropout that drops nothing."""
    if m.is_op(node, "aten.scaled_dot_product_attention"):
        return not (node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0))
    return m.is_op(node, "aten.dropout") and node.args[2] is False


def _is_mask(index: Any) -> bool:
    return isinstance(index, Node) and m.dtype(index) in (torch.bool, torch.uint8)


def _indices(node: Node) -> tuple[Any, ...]:
    indices = node.args[1]
    return tuple(indices) if isinstance(indices, (list, tuple)) else ()


def in_host_memory(
    placeholders: Iterable[Placeholder],
    examples: Iterable[Any],
    written: Container[str],
    device: torch.device,
) -> Iterator[str]:
    """Names of the weights and of the inputs that are ``written`` that are not on ``device``: a
    graph would freeze their values. Other inputs are copied to the device before each call."""
    for item, value in zip(placeholders, examples, strict=True):
        stays = item.kind == "weight" or item.name in written
        if stays and isinstance(value, Tensor) and value.device.type != device.type:
            yield item.name

"""Logs of a compile: an observer that says in a line what each step did."""

from __future__ import annotations

import logging

from glmc.artifact.packing import PackProgress
from glmc.compiled import Compiled
from glmc.ir.program import Program
from glmc.observe.events import PlanMade, WeightsPacked
from glmc.passes import specialise
from glmc.pipeline.events import Event, StageEnded, StepDone
from glmc.pipeline.records import PassRecord
from glmc_runtime.command.units import bytes_text, seconds_text

_CAPTURE = logging.getLogger("glmc.capture")
_PASSES = logging.getLogger("glmc.passes")
_LOWERING = logging.getLogger("glmc.lowering")
_WEIGHTS = logging.getLogger("glmc.weights")


class Logged:
    """Hears a compile and logs it, each part to the logger of its artifact."""

    def __init__(self) -> None:
        self._packed: PackProgress | None = None

    def observe(self, event: Event) -> None:
        match event:
            case StepDone(record=PassRecord() as record):
                _log_pass(record)
            case StepDone("capture", program=program):
                _log_capture(program)
            case StepDone(phase, program=program):
                _PASSES.info(
                    "%s made %s: %d nodes", specialise.NAME, phase, len(program.graph.nodes)
                )
            case PlanMade(compiled):
                _log_plans(compiled)
            case WeightsPacked(progress):
                self._log_tensor(progress)
            case StageEnded("weights", seconds) if self._packed is not None:
                count, size = self._packed.count, bytes_text(self._packed.total)
                _WEIGHTS.info("%d tensors, %s, packed in %s", count, size, seconds_text(seconds))
            case StageEnded(name, seconds):
                _LOGGERS.get(name, _LOWERING).debug("%s took %s", name, seconds_text(seconds))

    def _log_tensor(self, progress: PackProgress) -> None:
        if self._packed is None or self._packed.number != progress.number:
            _WEIGHTS.debug("%d of %d: %s", progress.number, progress.count, progress.tensor)
        self._packed = progress


_LOGGERS = {"capture": _CAPTURE, "passes": _PASSES, "weights": _WEIGHTS}


def _log_capture(program: Program) -> None:
    layers = {node.meta.get("layer") for node in program.graph.nodes} - {None}
    _CAPTURE.info("%d nodes in %d layers", len(program.graph.nodes), len(layers))


def _log_pass(record: PassRecord) -> None:
    _PASSES.info(
        "%s: %d matches, %d near misses, %d to %d nodes, %s",
        record.name,
        len(record.matches),
        len(record.near_misses),
        record.nodes_before,
        record.nodes_after,
        seconds_text(record.seconds),
    )
    for miss in record.near_misses:
        where = f"{miss.node}: {miss.condition} {miss.source}".rstrip()
        _PASSES.debug("%s did not match %s", record.name, where)


def _log_plans(compiled: Compiled) -> None:
    for name, phase in compiled.report.phases.items():
        bucket, size = list(phase["arena_bytes"].items())[-1]
        _LOWERING.info(
            "%s: %d calls, %d buffers, arena %s at %s",
            *(name, phase["calls"], phase["buffers"], bytes_text(size), bucket),
        )
        for kernel, count in phase["kernels"].items():
            _LOWERING.debug("%s: %s, %d calls", name, kernel, count)

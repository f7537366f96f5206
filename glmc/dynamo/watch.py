"""The dump of a traced program: a folder per graph, a file per pass that changed something, and the
kernel calls."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from glmc.dynamo.compile.lower import TracedPlan
from glmc.dynamo.options import PLACE
from glmc.errors import UsageError
from glmc.ir.program import Program
from glmc.lowering.assemble import dtype_name
from glmc.observe.dump.blocks import blocks
from glmc.observe.dump.plan import plan_text
from glmc.observe.dump.text import program_text
from glmc.observe.dump.values import Values
from glmc.pipeline.events import Event, StepDone
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.plan import Buffer, PhasePlan


class GraphDump:
    """Writes into ``graph_NN`` below ``folder``, the first number that is free; without a folder
    it writes nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder: Path | None = None
        self._step = count()
        self._last = ""
        if folder is not None:
            free = (folder / f"graph_{number:02d}" for number in count())
            try:
                self._folder = next(path for path in free if not path.exists())
                self._folder.mkdir(parents=True)
            except OSError as error:
                raise _unusable(folder, error) from error

    def observe(self, event: Event) -> None:
        """Write the program that a step has left."""
        if isinstance(event, StepDone):
            self._step_done(event.name, event.program)

    def _step_done(self, name: str, program: Program) -> None:
        number = next(self._step)
        if self._folder is None:
            return
        made = blocks(program, Values(program))
        text = program_text((f"{number:02d}_{name}: a graph of torch.compile",), program, made)
        body = text.partition("\n")[2]
        if body != self._last:
            self._write(f"{number:02d}_{name}.txt", text)
        self._last = body

    def planned(self, plan: TracedPlan, program: Program, target: str, emulated: bool) -> None:
        """The kernel calls, in order."""
        number = next(self._step)
        if self._folder is None:
            return
        title = f"{number:02d}_calls: kernel calls for {target}{' (emulated)' * emulated}"
        # Offsets hang on the sizes of a call, so they are not told here.
        buffers = tuple(
            Buffer(index, one.name, dtype_name(one.dtype), one.shape, Extent(), 0, 0)
            for index, one in enumerate(plan.buffers)
        )
        phase = PhasePlan("traced", (), buffers, plan.calls, (), -1, Extent())
        self._write(f"{number:02d}_calls.txt", plan_text([title], phase, program, True))

    def _write(self, name: str, text: str) -> None:
        if self._folder is None:
            return
        try:
            (self._folder / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise _unusable(self._folder, error) from error


def _unusable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        "option 'dump' names a folder that can't be written to",
        place=PLACE,
        expected="a folder, or a path where one can be made",
        found=f"{folder}: {error.strerror or error}",
        remedy="name another one: options={'dump': 'some/folder'}",
    )

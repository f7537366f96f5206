"""What is shown of a compile that goes on, and the parts of the time at its end."""

from __future__ import annotations

import io
import re
import sys
import time
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Progress

from glmc.artifact.packing import PackProgress
from glmc.cli import clock
from glmc.cli.clock import Timed, elapsed, parts_text
from glmc.cli.progress import Amount, Bars, bars_on, shown_progress
from glmc.cli.stages import importing, is_silent
from glmc.compiler import WEIGHTS
from glmc.config import CompileOptions
from glmc.job import Job, read_job
from glmc.observe.events import JobBegun, WeightsPacked
from glmc.pipeline.events import NOBODY, Event, PassBegun, StageBegun, StageEnded, StepDone
from glmc_runtime.command.logs import configure


@pytest.fixture(scope="module")
def job() -> Job:
    return read_job("models/tiny-dense", CompileOptions())


def step_done(name: str) -> Event:
    return StepDone(name, "", SimpleNamespace())  # type: ignore[arg-type]


def test_bars_name_the_pass_and_the_tensor(job: Job) -> None:
    progress = Progress(console=Console(file=io.StringIO()))
    bars = Bars(progress, verify=False)
    for event in (JobBegun(job), StageBegun("capture"), StageEnded("capture", 1.0)):
        bars.observe(event)
    (steps,) = progress.tasks
    assert (steps.description, steps.completed, steps.total) == ("capture", 1, 18)
    for name in (each.name for each in job.selection.passes[:3]):
        bars.observe(PassBegun(name))
        bars.observe(step_done(name))
    assert (steps.description, steps.completed) == ("pass 3 of 15 rms_norm", 4)
    bars.observe(StageBegun(WEIGHTS))
    bars.observe(WeightsPacked(PackProgress("lm_head", 310, 1204, 2**30, 4 * 2**30)))
    weights = progress.tasks[1]
    assert weights.description == "tensor 310 of 1,204"
    assert Amount().render(weights).plain == "1.0 GiB"
    assert Amount().render(steps).plain.startswith("4 of 18, ")


def test_every_step_of_a_compile_moves_the_bar_to_its_end(job: Job) -> None:
    progress = Progress(console=Console(file=io.StringIO()))
    bars = Bars(progress, verify=True)
    bars.observe(JobBegun(job))
    assert progress.tasks[0].description == "proof: a compile in float32"
    bars.observe(StageEnded("capture", 1.0))
    for name in (*(each.name for each in job.selection.passes), "kv_cache", "prefill", "decode"):
        bars.observe(step_done(name))
    assert progress.tasks[0].description == "proof of decode"
    for phase in ("prefill", "decode"):
        bars.observe(StageEnded(f"lower {phase}", 1.0))
    assert progress.tasks[0].completed == progress.tasks[0].total == 18


def test_bytes_have_a_rate_and_the_time_that_is_left() -> None:
    task = SimpleNamespace(
        fields={"bytes": True}, completed=2.0**30, total=2.0**32, speed=2.0**29, time_remaining=312
    )
    shown = Amount().render(task).plain  # type: ignore[arg-type]
    assert shown == "1.0 GiB, 512.0 MiB/s, 5 min 12 s left"


def test_a_bar_takes_one_line_of_a_terminal(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each text is as long as it gets."""
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None)
    progress = bars_on(console)
    seconds = iter(range(0, 1000, 5))
    monkeypatch.setattr(progress, "get_time", lambda: float(next(seconds)))
    bars = Bars(progress, verify=True)
    bars.observe(JobBegun(job))  # the longest name of a step
    rate, done = 1020 * 2**20, 1001 * 2**30  # a second
    for number in range(1, 5):
        at = PackProgress("lm_head", 33000 + number, 36204, done, 1001 * 2**30 + rate * 3570)
        bars.observe(WeightsPacked(at))
        done += rate * 5
    console.print(progress.get_renderable())
    steps, weights = out.getvalue().splitlines()
    assert max(len(steps), len(weights)) <= 80
    assert steps.startswith("proof: a compile in float32 ") and ", " in steps
    assert re.match("tensor 33,004 of 36,204 +\N{BOX DRAWINGS HEAVY HORIZONTAL}", weights)
    assert weights.rstrip().endswith(" 1015.9 GiB, 1020.0 MiB/s, 59 min 15 s left")


def test_a_pipe_gets_lines_and_the_quiet_nothing(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    monkeypatch.setattr("glmc.cli.stages.elapsed", lambda: 3.25)
    with importing(silent=False), shown_progress(silent=False, verify=False) as lines:
        for event in (JobBegun(job), StageBegun("capture"), StageBegun("passes")):
            lines.observe(event)
    layers = job.source.shape.layers
    assert capsys.readouterr().err.splitlines() == [
        "at 3.2 s: importing torch and transformers",
        f"at 3.2 s: capture of {layers} layers",
        "at 3.2 s: 15 passes",
    ]
    with importing(silent=True), shown_progress(silent=True, verify=False) as nothing:
        assert nothing is NOBODY
    assert capsys.readouterr().err == ""
    assert (is_silent(as_json=False), is_silent(as_json=True)) == (False, True)
    configure(quiet=True)
    assert is_silent(as_json=False)
    configure()


def test_the_time_is_that_of_the_clock_and_its_parts_are_all_of_it() -> None:
    clock.begin(of_process=True)
    of_process = elapsed()
    clock.begin(of_process=False)
    assert elapsed() < 1 < of_process  # torch was imported in this process
    parts = {"imports": 3.4, "compile": 0.0, "proof": 3.1, "packing": 1.4}
    expected = "16.1 s: imports 3.4 s, compile 8.2 s, proof 3.1 s, packing 1.4 s"
    assert parts_text(16.1, parts, rest="compile") == expected


def test_an_observer_that_raises_is_timed_as_well() -> None:
    class Slow:
        def observe(self, event: Event) -> None:
            time.sleep(0.01)
            raise ValueError("no")

    timed = Timed(Slow())
    with pytest.raises(ValueError, match="no"):
        timed.observe(Event())
    assert timed.seconds >= 0.01

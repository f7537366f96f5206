"""What ``glmc compile`` does once it is known what is asked for: progress, compile, report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import typer

from glmc.artifact.inputs import inputs_of_model
from glmc.cli.clock import Timed, elapsed
from glmc.cli.say import console, say
from glmc.cli.stages import importing, is_silent
from glmc.config import FROM_ENGINE, CompileOptions
from glmc_runtime.command.ending import stopped_at_once, stopped_saying
from glmc_runtime.command.units import bytes_text


@dataclass(frozen=True)
class CompileRequest:
    """What a compile is asked for; ``dump`` are fields of DumpOptions."""

    model: str
    path: Path
    options: CompileOptions
    dump: Mapping[str, Any]
    verify: bool
    report: bool
    as_json: bool
    before: os.stat_result | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "before", _status(self.path))

    def stopped(self) -> str:
        """What there is after Ctrl-C."""
        now = _status(self.path)
        if now is not None and (self.before is None or now.st_ino != self.before.st_ino):
            return f"stopped; {self.path} had been written"
        folder = self.dump["directory"]
        if folder is not None:
            return f"stopped; no artifact written, and a part of the dump in {folder}"
        return "stopped; nothing written"


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def compile_and_report(request: CompileRequest) -> None:
    """Compile and show the report, progress on stderr; after Ctrl-C, say what there is."""
    with stopped_saying(request.stopped):
        _compile(request)


def _compile(request: CompileRequest) -> None:
    path, verify, as_json = request.path, request.verify, request.as_json
    silent = is_silent(as_json)
    inputs = inputs_of_model(request.model, request.options)  # before modules that they say of
    with stopped_at_once(request.stopped()), importing(silent=silent):
        from glmc.check.verify.proof import Proof
        from glmc.check.verify.proved import remembered
        from glmc.cli.progress import shown_progress
        from glmc.cli.tables import (
            calls_table,
            passes_table,
            phases_table,
            summary_lines,
            time_line,
        )
        from glmc.compiler import compile_job
        from glmc.estimates.rates import rates_for
        from glmc.job import read_job
        from glmc.observe.dump.dumper import Dumper
        from glmc.observe.dump.options import DumpOptions
        from glmc.pipeline.events import NOBODY, Observers
        from glmc.range_check.decide import decide_dtype

    imports = elapsed()
    job = read_job(request.model, request.options)
    passes = tuple(each.name for each in job.passes)
    dumps = DumpOptions(**request.dump, passes=passes)
    dumper = Dumper(dumps)
    told: dict[str, str] = {}
    dumping = Timed(dumper)
    with shown_progress(silent=silent, verify=verify) as progress:
        job = decide_dtype(job, progress, rates_for(job))
        prover = Proof(job, dumper.verdicts, partial(_tell, told)) if verify else None
        proof = Timed(prover or NOBODY)
        with dumper, remembered(prover, inputs):
            result = compile_job(job, path, Observers(progress, proof, dumping), inputs).to_json()
    for remark in () if is_silent(as_json=False) else dumper.remarks:
        say(f"dump: {remark}", err=True)
    if as_json:
        typer.echo(json.dumps({"artifact": str(path), **result}))
        return
    out = console()
    if request.report:
        out.print(passes_table(result))
        out.print(calls_table(result))
    out.print(phases_table(result))
    took = {"imports": imports, "compile": 0.0}
    took |= {"proof": proof.seconds} if verify else {}
    took |= {"dump": dumping.seconds} if dumps.directory is not None else {}
    unpacked = request.options.weights in ("none", FROM_ENGINE)
    took["writing" if unpacked else "packing"] = result["seconds"]["write"]
    remarks = {f"{name}: {text}" for name, text in told.items()}
    for line in (*summary_lines(result, path, remarks), _needs(path)):
        out.print(line, highlight=False, soft_wrap=True)
    out.print(time_line(path, took), highlight=False, soft_wrap=True)


def _needs(path: Path) -> str:
    """What the artifact takes on a device, in a line."""
    from glmc.artifact.reader import manifest_of
    from glmc_runtime.format.memory import block_bytes, weight_bytes

    manifest = manifest_of(path)
    token = block_bytes(manifest.cache) // manifest.cache.block_size
    ranks = manifest.ranks.count
    where = f" on each of {ranks} ranks" if ranks > 1 else ""
    return (
        f"needs {bytes_text(weight_bytes(manifest))} of weights and {bytes_text(token)} of cache "
        f"a token{where}; 'glmc fit {path}' says what fits"
    )


def _tell(told: dict[str, str], name: str, text: str) -> None:
    """A line for each verdict; on stderr, as it is no result. It is in ``told`` afterwards."""
    if not is_silent(as_json=False):
        say(f"verify {name:<16} {text}", err=True)
        told[name] = text

"""``record``: the values of an artifact's steps, as a file of torch_xray's layout."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from glmc_runtime.cli.artifact_runs import artifact_run
from glmc_runtime.command.ending import stopped_at_once
from glmc_runtime.command.output import aside, counted
from glmc_runtime.command.units import bytes_text
from glmc_runtime.format.artifact_files import require_directory
from glmc_runtime.loading.progress import CHECKING, shown_progress
from glmc_runtime.printable import printable_lines
from glmc_runtime.record.flags import output_of, record_options
from glmc_runtime.record.keep import Keep
from glmc_runtime.record.like import ModelOfRecord, require_like
from glmc_runtime.record.unequal_ranks import unequal_ranks

if TYPE_CHECKING:
    from glmc_runtime.loading.loader import Artifact


def record(options: SimpleNamespace) -> int:
    """Record; returns the exit status."""
    output, keep, run = output_of(options), Keep.parse(options.keep), artifact_run(options)
    require_directory(options.artifact)

    @cache
    def artifact() -> Artifact:
        from glmc_runtime.loading.loader import load_artifact

        with shown_progress(CHECKING) as progress:
            return load_artifact(
                options.artifact,
                verify_hashes=not options.no_verify,
                progress=progress,
                rank=None,
            )

    def encode(text: str) -> list[int]:
        from glmc_runtime.generate.text import Text

        return Text(artifact().files.below("tokenizer")).encode(text)

    wanted = record_options(options, encode)
    if options.like:
        remark = require_like(Path(options.like), ModelOfRecord.of(artifact().manifest))
        if remark is not None:
            aside(remark)
    from glmc_runtime.record.plan_values import values_of

    values = values_of(artifact())
    with stopped_at_once():
        from glmc_runtime.record.artifact import record_values
        from glmc_runtime.record.h5_file import H5File

    with H5File(output, keep) as sink:
        facts = record_values(artifact(), values, sink, wanted, run)
    if facts["replays"] > 1:
        aside(
            f"a step was replayed {facts['replays']} times, each time for other values: "
            f"{bytes_text(run.tap_memory)} of --tap-memory have no room for all at once"
        )
    if not facts["replays_equal"]:
        aside("the replays of a step gave other logits each: values are not of one computation")
    unequal = unequal_ranks(facts, str(output))
    if unequal is not None:
        aside(unequal)
    how = " (emulated)" if facts["emulated"] else " (interpreted)" if facts["interpreted"] else ""
    steps = counted(wanted.steps + 1, "step")
    print(printable_lines(f"{output}: {counted(sink.count, 'tensor')} of {steps}{how}"))
    return 0

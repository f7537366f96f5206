"""What is compiled here, aligned with a record that a GPU made."""

from __future__ import annotations

from pathlib import Path

from glmc.check.align.calls_beside import CallsBeside
from glmc.check.align.compare import align
from glmc.check.align.readers.open import open_record
from glmc.check.align.recorded import RecordedModel
from glmc.check.align.result import Alignment, Verdict
from glmc.check.align.whose import with_own_errors
from glmc.compiler import back_end
from glmc.config import CompileOptions
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.record.h5_facts import recorded_run
from glmc_runtime.record.options import RecordOptions
from tests.check.align.aligned import OPTIONS, Aligner, rebuilt_of
from tests.check.align.memory_sink import of_artifact


def beside(
    reference: Path, model: Aligner, place: str, options: CompileOptions = OPTIONS
) -> tuple[Alignment, Alignment]:
    """An artifact in bfloat16, run on the ids and tokens of a reference: its values compared, and
    the same with the errors of its calls."""
    run, record = recorded_run(reference), open_record(reference)
    job = model.job(place, "bfloat16", options)
    captured, front = model.front(job)
    with rebuilt_of(captured, front, back_end(front, job)) as rebuilt:
        wanted = RecordOptions(run.prompts, len(run.tokens[0]), run.tokens)
        compared = align(record, of_artifact(rebuilt.artifact.path, wanted))
        own = CallsBeside(rebuilt, RecordedModel(record), LoadOptions()).own_errors()
    return compared, with_own_errors(compared, own, lambda module, layer: True)


def require_sound(alignment: Alignment, values: int, routed: tuple[int, ...]) -> None:
    """Every value is within what is allowed, and each router chose the experts of the reference
    for as many tokens as ``routed`` says, one number for each step."""
    assert [each.name for each in alignment.values if each.verdict is not Verdict.OK] == []
    assert len(alignment.values) == values
    chosen = [0] * len(routed)
    for each in alignment.values:
        if each.router is not None:
            assert each.router.agreeing == each.router.tokens, each.name
            chosen[each.step] += each.router.tokens
    assert tuple(chosen) == routed


def nearest(alignment: Alignment) -> float:
    """The largest share of what is allowed."""
    return max(each.share or 0.0 for each in alignment.values)

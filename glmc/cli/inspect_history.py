"""``glmc inspect`` on the history of a compile: ``--node``, ``--why-not`` and ``--page``."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from glmc.artifact.reader import read_artifact
from glmc.cli.page_file import require_page_place, write_page
from glmc.cli.progress import shown_progress
from glmc.cli.say import say
from glmc.cli.stages import is_silent
from glmc.compiler import front_end
from glmc.config import CompileOptions
from glmc.errors import LoweringError, UsageError
from glmc.job import read_job
from glmc.observe.events import JobBegun
from glmc.observe.history.collect import HistoryCollector
from glmc.observe.history.lineage import Lineage, lineage
from glmc.observe.history.record import History
from glmc.observe.history.stored import read_history, source_text
from glmc.observe.history.why_not import WhyNot, why_not
from glmc.observe.page.aligned import read_aligned
from glmc.observe.page.artifact import facts_of_manifest
from glmc.observe.page.render import page
from glmc.observe.timeline.timed import read_timed
from glmc.pipeline.events import Observers
from glmc_runtime.printable import printable

_SHOWN = 8  # near misses in full; more of them are counted


@dataclass(frozen=True)
class HistoryQuestion:
    """What is asked of ``source``: an artifact, or for ``why_not`` a model. ``page`` also shows an
    alignment and a timeline."""

    source: str
    layer: int | None
    node: str | None
    why_not: str | None
    page: Path | None
    align: Path | None = None
    timeline: Path | None = None


def inspect_history(question: HistoryQuestion, *, as_json: bool) -> None:
    """Answer one question; raises UsageError for two at once and for what does not exist."""
    asked = [question.node, question.why_not, question.page]
    if sum(item is not None for item in asked) > 1:
        raise UsageError("--node, --why-not and --page are separate questions", remedy="ask one")
    history = _history(question, is_silent(as_json))
    if question.page is not None:
        _write_page(question.page, question, history)
        return
    if question.node is not None:
        life = lineage(history, question.node)
        answer, lines = asdict(life), node_lines(life, history)
    else:
        reasons = why_not(history, str(question.why_not), question.layer)
        answer, lines = asdict(reasons), why_not_lines(reasons, history)
    say(json.dumps(answer) if as_json else "\n".join(map(printable, lines)))


def _history(question: HistoryQuestion, silent: bool) -> History:
    path = Path(question.source)
    if question.why_not is None or (path / "manifest.json").is_file():
        return read_history(path)
    job = read_job(question.source, CompileOptions(allow_missing=True))
    collector = HistoryCollector(job.selection.passes)
    try:
        with shown_progress(silent=silent, verify=False) as progress:
            progress.observe(JobBegun(job))
            front_end(job, Observers(progress, collector))
    except LoweringError:
        # A lost fusion may have no unfused implementation, but the passes that ran can be asked all
        # the same.
        if question.why_not not in collector.names:
            raise
    versions = {"transformers": importlib.metadata.version("transformers")}
    source = job.source
    return collector.history(source.shape.name, versions, source.expected_matches, {})


def _write_page(target: Path, question: HistoryQuestion, history: History) -> None:
    artifact, align, timeline = Path(question.source), question.align, question.timeline
    require_page_place(target, [artifact])
    contents = read_artifact(artifact)
    timed = None if timeline is None else read_timed(timeline, history, target)
    aligned = None if align is None else read_aligned(align, history, target)
    write_page(target, page(history, facts_of_manifest(contents.manifest), timed, aligned))


def node_lines(life: Lineage, history: History) -> Iterator[str]:
    """The answer to ``--node`` in lines."""
    yield life.id
    if life.module:
        yield f"  module    {life.module}"
    if life.source:
        yield f"  source    {_with_text(life.source, history)}"
    if life.origins:
        yield "  stands for"
        for origin, source in life.origins:
            yield f"            {origin}  {source}".rstrip()
    yield "  steps"
    for event in life.events:
        if not event.nodes:
            yield f"    {event.step:<16} dropped it"
        for number, (whole, text) in enumerate(event.nodes):
            word = event.what if number == 0 else ""
            named = "" if whole == life.id else f"{whole}: "
            yield f"    {event.step if number == 0 else '':<16} {word:<9}{named}{text}"
    yield "  kernel calls" if life.calls else "  kernel calls: none"
    for call in life.calls:
        where = "captured" if call.captured else "not captured"
        writes = f", writes {', '.join(call.writes)}" if call.writes else ""
        yield f"    {call.phase:<16} {call.index:>5}  {call.function}{writes}, {where}"


def why_not_lines(reasons: WhyNot, history: History) -> Iterator[str]:
    """The answer to ``--why-not`` in lines."""
    where = "" if reasons.layer is None else f" in layer {reasons.layer}"
    expected = "" if reasons.expected is None else f", {reasons.expected} expected"
    if reasons.expected is None and not reasons.found:
        expected = ", none expected"
    yield f"{reasons.pass_name}: {reasons.found} matches in the model{expected}"
    if reasons.layer is not None or not reasons.misses:
        count = len(reasons.matches)
        yield f"It matched {'once' if count == 1 else f'{count} times'}{where}."
        for whole in reasons.matches[:_SHOWN]:
            yield f"    {whole}"
        if len(reasons.matches) > _SHOWN:
            yield f"    and {len(reasons.matches) - _SHOWN} more"
    if not reasons.misses:
        yield from _nothing_near(reasons, where)
        return
    yield f"{len(reasons.misses)} near misses{where}, the nearest first:"
    for miss in reasons.misses[:_SHOWN]:
        layer = "" if miss.layer is None else f"layer {miss.layer}: "
        yield f"    {layer}{miss.node}"
        yield f"        {miss.condition}"
        yield f"        anchor {miss.anchor}, {miss.held} conditions held before"
        if miss.source:
            yield f"        {_with_text(miss.source, history)}"
    if len(reasons.misses) > _SHOWN:
        yield f"    and {len(reasons.misses) - _SHOWN} more"


def _nothing_near(reasons: WhyNot, where: str) -> Iterator[str]:
    if reasons.matches:
        return
    if reasons.seen is None:
        yield f"This pass looks at all nodes and found nothing to do{where}."
        return
    anchors = " or ".join(reasons.anchors)
    if reasons.seen == 0 and reasons.taken:
        takers = " and ".join(f"{name} took {count}" for name, count in reasons.taken)
        total = sum(count for _, count in reasons.taken)
        yield f"Nothing is left for it: of {total} {anchors}{where}, {takers} before it."
    elif reasons.seen == 0:
        yield f"There is no {anchors}{where} before it, which is where it begins to look."
    else:
        yield f"The {reasons.seen} nodes {anchors}{where} belong to something else."


def _with_text(source: str, history: History) -> str:
    text = source_text(source, history.versions)
    return f"{source}: {text}" if text else source

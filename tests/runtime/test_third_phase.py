"""A third phase with a symbol, step inputs and a cache tensor of its own, beside those of the toy.

All of it is in this file: rows of the public tables, two kernels, and an artifact that has them.

``recall`` keeps a row for each token in the cache ``notes``: the word, and the place of how many
tokens of its sequence come after it. It gives back logits of the sum of a sequence's rows and of
the words of its ``drafts``: rows that are counted by themselves, and are what a step is padded in.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import glmc_runtime
from glmc_runtime.engine.assemble import Machine, assemble
from glmc_runtime.engine.options import LoadOptions
from glmc_runtime.errors import ArtifactError, PlanError
from glmc_runtime.format import phases, step_inputs
from glmc_runtime.format.cache import CacheTensor
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.manifest import phase_entry
from glmc_runtime.format.phases import PREFILL, Phase
from glmc_runtime.format.plan import (
    BufferArgument,
    CacheArgument,
    Head,
    InputArgument,
    InputSpec,
    PhasePlan,
    ValueArgument,
    WeightArgument,
)
from glmc_runtime.format.plan_json import phase_from_json, phase_to_json
from glmc_runtime.format.step_inputs import CONTEXT, Column, StepInput, StepValues
from glmc_runtime.kernels import Thunk, register
from glmc_runtime.kernels.schema import schema, tensor, written
from glmc_runtime.loading.loader import load_artifact
from glmc_runtime.replay.step import ScheduledTokens, Step
from tests.runtime.toy import (
    HIDDEN,
    VOCABULARY,
    PhaseBuilder,
    reference_greedy,
    toy_weights,
    write_manifest,
    write_toy,
)
from tests.runtime.toy_kernels import BLOCK_SIZE, BLOCKS_PER_SEQUENCE

RECALL = Phase(
    "recall",
    ("tokens", "sequences", "drafts"),
    ("token_ids", "slot_mapping", "block_tables", "context_lengths", "ages", "draft_ids"),
    bucket="drafts",
    smaller=(("sequences", "tokens"),),
    bindings_kept=2,
)
BUCKETS = (2, 8)
MOST = {"tokens": 16, "sequences": 4}
TOKENS, SEQUENCES, DRAFTS = (Extent.of(**{name: 1}) for name in RECALL.symbols)


def _ages(step: StepValues) -> Column:
    """How many tokens of the sequence come after each."""
    ages = array("q")
    for chunk in step.chunks:
        ages.extend(range(len(chunk.tokens) - 1, -1, -1))
    ages.extend([0] * step.padding)
    return ages


def _draft_ids(step: StepValues) -> Column:
    """The step's first tokens, from its end on: a draft for each until there are enough."""
    tokens = [token for chunk in step.chunks for token in chunk.tokens][::-1]
    drafts = step.sizes["drafts"]
    return (tokens * drafts)[:drafts]


INPUTS = (
    StepInput("ages", "int64", ("tokens",), "tokens after this one", _ages, below=CONTEXT),
    StepInput("draft_ids", "int64", ("drafts",), "drafts", _draft_ids, below="vocabulary"),
)


@pytest.fixture
def registered() -> Iterator[None]:
    phases.register(RECALL)
    for row in INPUTS:
        step_inputs.register(row)
    yield
    del phases.PHASES[RECALL.name]
    for row in INPUTS:
        del step_inputs.STEP_INPUTS[row.name]


@register(
    "test.notes_write",
    schema(
        tensor("notes", "tokens width"),
        written("cache", "blocks block_size width", like="notes", reads=True),
        tensor("slots", "tokens", "int64", holds="slot_mapping"),
    ),
)
def _notes_write(arguments: dict[str, Any]) -> Thunk:
    rows, notes, slots = arguments["cache"].flatten(0, 1), arguments["notes"], arguments["slots"]
    return lambda: rows.index_copy_(0, slots, notes)


@register(
    "test.notes_sum",
    schema(
        tensor("cache", "blocks block_size width"),
        tensor("block_tables", "sequences table", "int32", holds="block_tables"),
        tensor("context_lengths", "sequences", "int32", holds="context_lengths"),
        tensor("drafts", "drafts width", like="cache"),
        written("out", "sequences width", like="cache"),
    ),
)
def _notes_sum(arguments: dict[str, Any]) -> Thunk:
    cache, tables = arguments["cache"], arguments["block_tables"]

    def thunk() -> None:
        drafts = arguments["drafts"].sum(0)
        for row, length in enumerate(arguments["context_lengths"].tolist()):
            notes = cache[tables[row].long()].flatten(0, 1)[:length]
            torch.add(notes.sum(0), drafts, out=arguments["out"][row])

    return thunk


def recall_plan() -> PhasePlan:
    width = (Extent(constant=HIDDEN),)
    inputs = (
        InputSpec("token_ids", "int64", (TOKENS,)),
        InputSpec("slot_mapping", "int64", (TOKENS,)),
        InputSpec("block_tables", "int32", (SEQUENCES, Extent(constant=BLOCKS_PER_SEQUENCE))),
        InputSpec("context_lengths", "int32", (SEQUENCES,)),
        InputSpec("ages", "int64", (TOKENS,)),
        InputSpec("draft_ids", "int64", (DRAFTS,)),
    )
    build = PhaseBuilder(RECALL.name, inputs)
    words, ages, notes = (build.buffer(name, TOKENS, HIDDEN) for name in ("words", "ages", "notes"))
    drafts = build.buffer("drafts", DRAFTS, HIDDEN)
    total = build.buffer("total", SEQUENCES, HIDDEN)
    logits = build.buffer("logits", SEQUENCES, VOCABULARY)
    for ids, weight, out in (
        ("token_ids", "words", words),
        ("ages", "places", ages),
        ("draft_ids", "words", drafts),
    ):
        table = WeightArgument(weight)
        build.call("aten.embedding", ("out",), ids=InputArgument(ids), weight=table, out=out)
    build.call("aten.add", ("out",), x=words, y=ages, out=notes)
    cache = CacheArgument("notes", 0)
    slots = InputArgument("slot_mapping")
    build.call("test.notes_write", ("cache",), notes=notes, cache=cache, slots=slots)
    build.call(
        "test.notes_sum",
        ("out",),
        cache=cache,
        block_tables=InputArgument("block_tables"),
        context_lengths=InputArgument("context_lengths"),
        drafts=BufferArgument(drafts.buffer, (DRAFTS, *width), real=True),
        out=total,
    )
    head = WeightArgument("head", (0, VOCABULARY))
    build.call("aten.linear", ("out",), x=total, weight=head, bias=ValueArgument(None), out=logits)
    plan = build.finish(logits, Head(0, 0))
    # What sees how many drafts are real is no part of a device graph.
    segments = tuple(replace(segment, captured=False) for segment in plan.segments)
    return replace(plan, segments=segments, head=None)


def write_with_recall(root: Path, plan: PhasePlan | None = None) -> Path:
    """The toy with a third plan and a third cache tensor."""
    write_toy(root)
    manifest = load_artifact(root).manifest
    notes = CacheTensor("notes", (HIDDEN,), "float32", (0,))
    plan = recall_plan() if plan is None else plan
    (root / RECALL.key.file).write_text(json.dumps(phase_to_json(plan)))
    cache = replace(manifest.cache, tensors=(*manifest.cache.tensors, notes))
    entries = (*manifest.phases, phase_entry(RECALL.key, BUCKETS, MOST))
    write_manifest(root, replace(manifest, cache=cache, phases=entries))
    return root


def machine_of(root: Path) -> Machine:
    return assemble(load_artifact(root), LoadOptions(kv_blocks=12))


def recall_step(prompts: list[list[int]], bucket: int, drafts: int) -> Step:
    """A step of whole prompts, each in blocks of its own, with one row of padding."""
    chunks, block = [], 1
    for prompt in prompts:
        count = -(-len(prompt) // BLOCK_SIZE)
        chunks.append(ScheduledTokens(prompt, 0, list(range(block, block + count))))
        block += count
    rows = sum(map(len, prompts)) + 1
    return Step(chunks, rows, len(prompts), BLOCK_SIZE, {"drafts": (bucket, drafts)})


def expected_logits(prompts: list[list[int]], drafts: int) -> torch.Tensor:
    weights = toy_weights()
    words = [token for prompt in prompts for token in prompt][::-1]
    drafted = weights["words"][(words * drafts)[:drafts]].sum(0)
    rows = []
    for prompt in prompts:
        ages = list(range(len(prompt) - 1, -1, -1))
        rows.append((weights["words"][prompt] + weights["places"][ages]).sum(0) + drafted)
    return torch.stack(rows) @ weights["head"][:VOCABULARY].T


@pytest.mark.usefixtures("registered")
def test_the_third_phase_is_loaded_checked_bound_and_replayed(tmp_path: Path) -> None:
    machine = machine_of(write_with_recall(tmp_path / "toy"))
    assert machine.cache.tensor("notes", 0).shape == (12, BLOCK_SIZE, HIDDEN)
    replay = machine.replays[RECALL.key]
    prompts = [[5, 6, 7, 8, 9], [11], [3, 4]]
    for bucket, drafts in ((2, 1), (8, 3), (2, 2), (8, 8), (8, 3)):
        logits = replay.run(recall_step(prompts, bucket, drafts))
        torch.testing.assert_close(logits, expected_logits(prompts, drafts), rtol=1e-5, atol=1e-4)
    with torch.inference_mode():
        logits = replay.run(recall_step(prompts[:1], 8, 2))
    torch.testing.assert_close(logits, expected_logits(prompts[:1], 2), rtol=1e-5, atol=1e-4)
    steps = machine.statistics.buckets
    assert (steps["recall", 2].steps, steps["recall", 8].real_rows) == (2, 3 + 8 + 3 + 2)


@pytest.mark.usefixtures("registered")
def test_the_engine_goes_on_with_its_two_phases(tmp_path: Path) -> None:
    session = glmc_runtime.load(write_with_recall(tmp_path / "toy"))
    sequence, likeliest = session.sequence([1, 2, 3]), []
    logits = session.prefill([sequence])
    for _ in range(6):
        likeliest.append(int(logits.argmax()))
        logits = session.decode([sequence], likeliest[-1:])
    assert likeliest == reference_greedy([1, 2, 3], 6)


@pytest.mark.usefixtures("registered")
def test_a_block_is_copied_with_its_notes(tmp_path: Path) -> None:
    machine = machine_of(write_with_recall(tmp_path / "toy"))
    machine.replays[RECALL.key].run(recall_step([[5, 6, 7, 8]], 2, 1))
    machine.cache.copy_block(1, 7)
    notes = machine.cache.tensor("notes", 0)
    assert notes[1].any() and torch.equal(notes[7], notes[1])


@pytest.mark.usefixtures("registered")
def test_a_step_that_the_phase_can_not_have_is_refused(tmp_path: Path) -> None:
    machine = machine_of(write_with_recall(tmp_path / "toy"))
    step = recall_step([[5, 6], [7]], 2, 1)
    step.sizes = {**step.sizes, "sequences": 9}
    with pytest.raises(PlanError, match="no step of recall has these sizes"):
        machine.replays[RECALL.key].run(step)


def _over_drafts(plan: PhasePlan) -> PhasePlan:
    """Two buffers that are alive at once, of which one is where the other is."""
    words, drafts = plan.buffers[0], next(each for each in plan.buffers if each.name == "drafts")
    moved = replace(drafts, offset=words.offset)
    return replace(plan, buffers=tuple(moved if each is drafts else each for each in plan.buffers))


def _beyond(plan: PhasePlan) -> PhasePlan:
    return replace(plan, arena=plan.arena + DRAFTS * -4)


def _without(name: str) -> Any:
    def change(plan: PhasePlan) -> PhasePlan:
        return replace(plan, inputs=tuple(each for each in plan.inputs if each.name != name))

    return change


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_over_drafts, "share memory"),
        (_beyond, "beyond the arena"),
        (_without("draft_ids"), "no step input 'draft_ids'"),
        (_without("ages"), "no step input 'ages'"),
    ],
)
def test_a_wrong_plan_of_the_third_phase_is_refused(
    tmp_path: Path, change: Any, message: str
) -> None:
    root = write_with_recall(tmp_path / "toy", change(recall_plan()))
    with pytest.raises(PlanError, match=message):
        machine_of(root)


def test_whoever_lacks_the_phase_says_so(tmp_path: Path) -> None:
    phases.register(RECALL)
    root = write_with_recall(tmp_path / "toy")
    del phases.PHASES[RECALL.name]
    with pytest.raises(ArtifactError, match="phase is 'recall', and none of prefill, decode"):
        load_artifact(root)


@pytest.mark.usefixtures("registered")
def test_a_plan_of_another_phase_has_no_size_in_drafts() -> None:
    data = phase_to_json(recall_plan())
    assert phase_from_json(data) == recall_plan()
    with pytest.raises(PlanError, match="is not a size of this phase"):
        phase_from_json({**data, "name": PREFILL.name})

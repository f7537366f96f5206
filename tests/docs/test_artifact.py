"""docs/artifact.md against the dataclasses of the formats, the writer and the memory sums."""

from __future__ import annotations

import dataclasses
import re
from math import prod
from pathlib import Path
from typing import Any

import pytest

from glmc.artifact import inputs, times
from glmc.artifact.collectives import SWITCHES
from glmc.artifact.reader import read_artifact
from glmc_runtime.format import cache, dealt, manifest, plan, plan_json, step_inputs, values
from glmc_runtime.format.collectives import COLLECTIVES, default_table
from glmc_runtime.format.collectives_json import table_to_text
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.extent import Extent
from glmc_runtime.format.memory import block_bytes, memory_needs
from glmc_runtime.format.phases import DECODE, PREFILL
from glmc_runtime.generate.text.files import SETTINGS, TEMPLATE, TOKENIZER
from tests.artifact.toy import ToyHandedOver, ToyWeights, checkpoint_of, parts, write
from tests.docs.markdown import ROOT, blocks, section, table_rows
from tests.runtime import toy

PAGE = ROOT / "docs" / "artifact.md"
DOCUMENTED = (
    manifest.Manifest,
    manifest.ModelFacts,
    cache.CacheSpec,
    cache.CacheTensor,
    manifest.Limits,
    manifest.PhaseEntry,
    manifest.Ranks,
    manifest.CollectiveCalls,
    manifest.Guards,
    manifest.WeightEntry,
    manifest.FileEntry,
    times.Times,
    times.PassTimes,
    inputs.Inputs,
    inputs.InputFile,
    values.Values,
    values.PlanValue,
    values.ValuePart,
    dealt.Dealt,
    plan.PhasePlan,
    plan.Head,
    plan.InputSpec,
    plan.Buffer,
    plan.Call,
    plan.Segment,
)


def names(text: str) -> list[str]:
    """Code spans in the first column of the text's tables."""
    return [name for row in table_rows(text) for name in re.findall(r"`([^`]+)`", row[0])]


# A size, a row of a table, and arguments that only plans of torch.compile have.
NOT_IN_ARTIFACTS = ("Extent", "Phase", "ViewArgument", "ListArgument")


@pytest.mark.parametrize("kind", DOCUMENTED, ids=lambda kind: kind.__name__)
def test_fields_are_those_of_the_dataclass(kind: Any) -> None:
    fields = [field.name for field in dataclasses.fields(kind)]
    assert names(section(PAGE, f"{kind.__name__} fields")) == fields


def test_every_dataclass_of_the_formats_is_documented() -> None:
    text = PAGE.read_text()
    for module in (cache, manifest, plan):
        for name, kind in vars(module).items():
            is_class = isinstance(kind, type) and dataclasses.is_dataclass(kind)
            if is_class and name not in NOT_IN_ARTIFACTS:
                assert f"{name} fields" in text or f"`{name}`" in text, name


def test_arguments_and_step_inputs() -> None:
    examples = (
        plan.BufferArgument(0),
        plan.WeightArgument("w"),
        plan.InputArgument("token_ids"),
        plan.CacheArgument("key", 0),
        plan.ExtentArgument(Extent.of(tokens=1)),
        plan.ValueArgument(1),
    )
    rows = table_rows(section(PAGE, "Arguments"))
    assert [row[:2] for row in rows] == [
        [f"`{next(iter(plan_json._argument_to_json(each)))}`", f"`{type(each).__name__}`"]
        for each in examples
    ]
    assert names(section(PAGE, "Step inputs")) == list(step_inputs.names())


def test_format_and_version() -> None:
    text = section(PAGE, "Manifest")
    assert f"`format` is `{manifest.FORMAT}`" in text
    assert f"`schema_version` is {manifest.SCHEMA_VERSION}" in text
    assert Extent.parse("8*tokens+sequences+1") == Extent.of(1, tokens=8, sequences=1)


def test_layout_is_what_is_written(tmp_path: Path) -> None:
    documented = section(PAGE, "Layout")
    assert all(f"`{name}`" in documented for name in (TOKENIZER, SETTINGS, TEMPLATE))
    patterns = [
        name.replace("NNNNN", r"\d{5}").replace("-N/", r"-\d+/").replace(".", r"\.")
        + (".*" if name.endswith("/") else "")
        for name in names(documented)
    ]
    empty = values.Values({})
    write(tmp_path / "toy", tokenizer={TOKENIZER: b"{}"}, history={}, values=empty, inputs={})
    write(tmp_path / "made", checkpoint=checkpoint_of(tmp_path / "model", ToyWeights().tensors))
    write(tmp_path / "handed", ToyHandedOver())
    write(
        tmp_path / "dealt",
        parts=parts(ranks=manifest.Ranks(2), phases=toy.entries(ranks=2)),
        plans={phase.key: toy.toy_plan(phase.name, ranks=2) for phase in (PREFILL, DECODE)},
        tables={COLLECTIVES: table_to_text(default_table("xpu", 2)).encode(), SWITCHES: b"#\n"},
    )
    written = [
        path.relative_to(tmp_path / artifact).as_posix()
        for artifact in ("toy", "made", "handed", "dealt")
        for path in (tmp_path / artifact).rglob("*")
        if path.is_file()
    ]
    unexplained = [
        name for name in written if not any(re.fullmatch(each, name) for each in patterns)
    ]
    unused = [each for each in patterns if not any(re.fullmatch(each, name) for name in written)]
    assert (unexplained, unused) == ([], [])


@pytest.mark.parametrize(("batch", "context"), [(0, 0), (1, 1), (2, 17), (4, 48)])
def test_the_memory_formula_is_the_one_in_use(tmp_path: Path, batch: int, context: int) -> None:
    formulas: dict[str, Any] = {}
    (block,) = blocks(PAGE, "python")
    exec(block.text, formulas)
    write(tmp_path / "toy")
    contents = read_artifact(tmp_path / "toy")
    facts = contents.manifest
    limits = facts.limits
    rows = [
        (prod(row.shape), dtype_of(row.dtype).itemsize, len(row.layers))
        for row in facts.cache.tensors
    ]
    per_block = formulas["block_bytes"](facts.cache.block_size, rows)
    assert per_block == block_bytes(facts.cache)
    decode = facts.phase(DECODE.key).buckets[-1]
    steps = {entry.key: entry.largest for entry in facts.phases}
    prefill = facts.phase(PREFILL.key).buckets[-1]
    assert steps[PREFILL.key] == {"tokens": prefill, "sequences": min(prefill, decode)}
    expected = formulas["device_bytes"](
        [prod(each.shape) * dtype_of(each.dtype).itemsize for each in facts.weights.values()],
        [contents.plans[name].arena.evaluate(step) for name, step in steps.items()],
        [
            prod(size.evaluate(step) for size in spec.shape) * dtype_of(spec.dtype).itemsize
            for name, step in steps.items()
            for spec in contents.plans[name].inputs
            if not spec.name.endswith("_host")
        ],
        per_block,
        batch,
        context,
        facts.cache.block_size,
    )
    assert (batch <= decode, context <= limits.max_context) == (True, True)
    assert memory_needs(facts, contents.plans).total(batch, context) == expected

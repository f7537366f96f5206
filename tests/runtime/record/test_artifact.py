"""A recorded toy: which rows, in which order, the same bits however it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import glmc_runtime
from glmc_runtime.errors import ArtifactError, CapacityError, RequestError
from glmc_runtime.format.tensor_key import OUTPUT, TensorKey
from glmc_runtime.format.values import ValuePart, Values
from glmc_runtime.loading.loader import load_artifact
from glmc_runtime.record.artifact import record_artifact, record_values
from glmc_runtime.record.artifact_run import ArtifactRun
from glmc_runtime.record.options import RecordOptions
from tests.runtime.record.recorded import MemorySink, differing, same_bits, values_of_plans
from tests.runtime.toy import reference_greedy, reference_logits, toy_weights
from tests.runtime.toy_kernels import HEAD_DIM, HEADS

PROMPTS = ((3, 14, 15), (9, 2, 6, 5, 3, 5))  # 9 tokens in a bucket of 16
REPLAYED, CALLED = ArtifactRun(), ArtifactRun(graph=False)


def _key(name: str) -> str:
    return f"model.layers.0.{name}.Toy.0.forward_output.0"


def recorded(
    path: Path, prompts: Any = PROMPTS, run: ArtifactRun = REPLAYED, **options: Any
) -> MemorySink:
    artifact, sink = load_artifact(path), MemorySink()
    values = values_of_plans(artifact.plans)
    record_values(artifact, values, sink, RecordOptions(prompts, **options), run)
    return sink


@pytest.mark.parametrize("run", [REPLAYED, CALLED])
def test_rows_are_those_of_the_prompts_and_no_others(toy_path: Path, run: ArtifactRun) -> None:
    sink = recorded(toy_path, run=run, steps=2)
    weights, ids = toy_weights(), torch.tensor([*PROMPTS[0], *PROMPTS[1]])
    places = torch.tensor([0, 1, 2, 0, 1, 2, 3, 4, 5])
    hidden = weights["words"][ids] + weights["places"][places]
    assert same_bits(sink.tensors[0, _key("hidden")], hidden)
    assert sink.lengths == {0: [3, 6], 1: [1, 1], 2: [1, 1]}
    for (step, name), tensor in sink.tensors.items():
        by_sequence = "logits" in name or "last" in name
        assert len(tensor) == (2 if step or by_sequence else 9), name
    for step in range(3):
        logits = sink.tensors[step, _key("logits")]
        tokens = [[*p, *t[:step]] for p, t in zip(PROMPTS, sink.run["tokens"], strict=True)]
        for row, text in zip(logits, tokens, strict=True):
            torch.testing.assert_close(row, reference_logits(text), rtol=1e-5, atol=1e-4)


def test_the_cache_is_recorded_as_the_rows_that_a_step_wrote(toy_path: Path) -> None:
    sink = recorded(toy_path, steps=2)
    for step in range(3):
        for name in ("key", "value"):
            written, rows = (
                sink.tensors[step, _key(f"{name}_cache")],
                sink.tensors[step, _key(name)],
            )
            assert same_bits(written.flatten(1), rows)


def test_values_come_in_the_order_of_the_calls(toy_path: Path) -> None:
    sink = recorded(toy_path)
    names = [name.split(".")[3] for step, name in sink.tensors if step == 0]
    assert names == [
        *("words", "places", "hidden", "merged", "query", "key", "value"),
        *("key_cache", "value_cache", "mixed", "residual", "last", "logits"),
    ]
    facts = sink.facts[0, _key("mixed")]
    assert (facts["call"], facts["function"]) == (6, "test.prefill_attention")
    assert (facts["phase"], facts["node"]) == ("prefill", "prefill_attention_6")
    assert (facts["layer"], facts["passes"]) == (0, ["by_hand"])
    assert sink.facts[1, _key("mixed")]["function"] == "test.decode_attention"


def test_the_record_says_what_ran(toy_path: Path) -> None:
    facts = recorded(toy_path, steps=3).run
    assert facts["prompts"] == [list(prompt) for prompt in PROMPTS]
    assert facts["tokens"] == [reference_greedy(list(prompt), 3) for prompt in PROMPTS]
    assert (facts["model"], facts["target"], facts["emulated"]) == ("toy", "cpu", False)
    assert facts["made_by"] == "glmc artifact, cpu"


def test_given_tokens_are_fed(toy_path: Path) -> None:
    given = ((7, 8), (1, 4))
    sink = recorded(toy_path, steps=2, tokens=given)
    assert sink.run["tokens"] == [[7, 8], [1, 4]]
    torch.testing.assert_close(
        sink.tensors[2, _key("logits")][1], reference_logits([*PROMPTS[1], 1, 4])
    )


def test_a_replayed_step_has_the_bits_of_its_calls(toy_path: Path) -> None:
    replayed, called = (recorded(toy_path, run=run, steps=2) for run in (REPLAYED, CALLED))
    assert differing(replayed, called) == []


def test_logits_are_those_of_a_session_without_taps(toy_path: Path) -> None:
    sink = recorded(toy_path, steps=1)
    session = glmc_runtime.load(toy_path)
    sequences = [session.sequence(prompt) for prompt in PROMPTS]
    prefill = session.prefill(sequences)
    decode = session.decode(sequences, prefill.argmax(-1).tolist())
    assert same_bits(sink.tensors[0, _key("logits")], prefill)
    assert same_bits(sink.tensors[1, _key("logits")], decode)


@pytest.mark.parametrize("run", [REPLAYED, CALLED])
def test_prompts_beyond_the_largest_bucket_come_in_parts(toy_path: Path, run: ArtifactRun) -> None:
    prompts = ((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11), (5, 4, 3, 2, 1, 0, 6, 7, 8), (3, 14, 15))
    sink = recorded(toy_path, prompts, run, steps=1)
    assert [sink.parts[step, _key("hidden")] for step in (0, 1)] == [2, 1]
    apart = [recorded(toy_path, (prompt,), run, steps=0) for prompt in prompts]
    for name in ("hidden", "key_cache", "mixed", "logits"):
        rows = torch.cat([each.tensors[0, _key(name)] for each in apart])
        torch.testing.assert_close(sink.tensors[0, _key(name)], rows, rtol=1e-5, atol=1e-5)


def test_a_step_is_replayed_for_each_group_that_has_room(toy_path: Path) -> None:
    whole = recorded(toy_path, steps=2)
    # A value has 16 rows of 24 or 72 columns at most.
    small = recorded(toy_path, run=ArtifactRun(tap_memory=16 * 72 * 4), steps=2)
    assert (whole.run["replays"], whole.run["replays_equal"]) == (1, True)
    assert small.run["replays"] > 3
    assert small.run["replays_equal"]
    assert differing(whole, small) == []


def test_groups_of_parts_are_those_of_one_replay(toy_path: Path) -> None:
    prompts = (tuple(range(1, 19)), (5, 4, 3))
    whole = recorded(toy_path, prompts, steps=1)
    small = recorded(toy_path, prompts, ArtifactRun(tap_memory=16 * 72 * 4), steps=1)
    assert small.run["replays"] > 3
    assert differing(whole, small) == []


def test_too_little_tap_memory_is_named_with_what_is_needed(toy_path: Path) -> None:
    with pytest.raises(CapacityError, match="larger than the tap memory") as caught:
        recorded(toy_path, run=ArtifactRun(tap_memory=1000))
    text = str(caught.value)
    assert "at most 1000 B" in text
    assert "1.0 KiB for model.layers.0.words" in text
    assert "--layers" in text
    assert "--tap-memory" in text
    assert len(recorded(toy_path, run=ArtifactRun(False, tap_memory=1000)).tensors) > 20


def test_only_what_is_asked_for_is_recorded(toy_path: Path) -> None:
    sink = recorded(toy_path, modules=("*.logits", "*.mixed"), layers=frozenset({0}))
    assert [name for step, name in sink.tensors if step == 0] == [_key("mixed"), _key("logits")]
    assert recorded(toy_path, layers=frozenset({3})).tensors == {}


def _with_parts(values: Values) -> Values:
    """The merged projection as three modules and as no module's tensor, with other names."""
    width = HEADS * HEAD_DIM
    keys = [TensorKey(f"model.layers.0.{name}_proj", "Linear", 0, OUTPUT, "0") for name in "qkv"]
    parts = tuple(
        ValuePart(place * width, (place + 1) * width, None, (key,))
        for place, key in enumerate(keys)
    )
    op = TensorKey("model.layers.0", "linear", 0, OUTPUT, "0")
    again = TensorKey("model.layers.0.again", "Toy", 0, OUTPUT, "0")
    phases: dict[str, Any] = {}
    for name, rows in values.phases.items():
        phases[name] = tuple(
            replace(row, op="linear", keys=(op,), parts=parts)
            if "merged" in row.keys[0].module
            else replace(row, keys=(*row.keys, again))
            if "mixed" in row.keys[0].module
            else row
            for row in rows
        )
    return Values(phases)


@pytest.mark.parametrize("level", ["op", "module"])
def test_columns_are_tensors_of_their_own(toy_path: Path, level: str) -> None:
    artifact, sink = load_artifact(toy_path), MemorySink()
    values = _with_parts(values_of_plans(artifact.plans))
    record_values(artifact, values, sink, RecordOptions(PROMPTS, level=level))
    for name, toy in (("q", "query"), ("k", "key"), ("v", "value")):
        place = 0, f"model.layers.0.{name}_proj.Linear.0.forward_output.0"
        assert same_bits(sink.tensors[place], sink.tensors[0, _key(toy)])
        assert sink.tensors[place].shape[-1] == HEADS * HEAD_DIM
        first, end = sink.facts[place]["columns"]
        assert end - first == HEADS * HEAD_DIM
    assert ((0, "model.layers.0.linear.0.forward_output.0") in sink.tensors) is (level == "op")
    assert sink.others[0, _key("mixed")] == ["model.layers.0.again.Toy.0.forward_output.0"]


@pytest.mark.parametrize(
    ("prompts", "options", "match"),
    [
        ((), {}, "nothing to record"),
        (((1,), ()), {}, "nothing to record"),
        (((1, 2),), {"steps": 2, "tokens": ((1,),)}, "not those of the prompts"),
        (((1, 2),), {"steps": 1, "tokens": ((1,), (1,))}, "not those of the prompts"),
        ((tuple(range(58)),), {"steps": 3}, "beyond the context"),
        (((1, 99),), {}, "vocabulary"),
        # 17 tokens: the last of them is a replay by itself.
        ((tuple(range(17)),), {}, "one of decode"),
    ],
)
def test_what_cannot_be_recorded_is_refused(
    toy_path: Path, prompts: Any, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(RequestError, match=match):
        recorded(toy_path, prompts, **options)


def test_an_artifact_without_values_is_refused(toy_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"values\.json"):
        record_artifact(toy_path, MemorySink(), RecordOptions(PROMPTS))


def test_prompts_of_a_token_each_run_as_an_engine_runs_them(toy_path: Path) -> None:
    sink = recorded(toy_path, ((3,), (5,), (7,)), steps=1)
    assert {facts["phase"] for facts in sink.facts.values()} == {"decode"}
    assert sink.tensors[0, _key("hidden")].shape == (3, 16)

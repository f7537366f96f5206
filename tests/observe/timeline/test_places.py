"""Kinds of ops by the place of a kernel, and where a place says nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from glmc.observe.timeline.op_class import op_class
from glmc.observe.timeline.places import with_places
from glmc.observe.timeline.readers.open import open_timeline
from glmc.observe.timeline.steps import work_by_step
from glmc.observe.timeline.table import Timeline
from tests.observe.timeline.sample import VLLM, kernel, timeline


def made_of(names: Sequence[str], stream: int = 7) -> Timeline:
    return timeline(*(kernel(name, 10.0 * at, 5, stream) for at, name in enumerate(names)))


def kinds(made: Timeline) -> list[str]:
    return [op_class(event) for event in with_places(made).events]


def test_products_before_a_choice_are_the_routers() -> None:
    names = ["nvjet_qkv", "rms_norm", "dot_kernel", "reduce_1Block_kernel", "grouped_topk_x"]
    assert kinds(made_of(names)) == ["linear", "norm", "router", "router", "router"]


def test_what_is_between_products_and_attention_is_rope_or_cache() -> None:
    names = ["nvjet_qkv", "triton_poi_fused_2", "reshape_and_cache_flash", "x", "flash::fwd"]
    found = ["linear", *["rope and cache"] * 3, "attention"]
    assert kinds(made_of(names)) == found


def test_a_kernel_before_any_product_or_after_attention_is_not() -> None:
    assert kinds(made_of(["x", "reshape_and_cache_flash"]))[0] == "other"
    names = ["nvjet_qkv", "flash::fwd", "x", "flash::fwd"]
    assert kinds(made_of(names)) == ["linear", "attention", "other", "attention"]
    assert kinds(made_of(["nvjet_a", "x", "nvjet_b", "flash::fwd"]))[1] == "other"


def test_streams_have_places_of_their_own() -> None:
    made = made_of(["nvjet_a", "grouped_topk_x"])
    other = replace(made.events[1], lane="device 0 stream 9")
    assert kinds(timeline(made.events[0], other)) == ["linear", "router"]


def test_a_file_of_ours_is_left_as_it_is() -> None:
    made = made_of(["nvjet_a", "grouped_topk_x"])
    ours = replace(made, events=tuple(replace(event, node="n") for event in made.events))
    assert with_places(ours) is ours


def test_a_real_step() -> None:
    made = open_timeline(VLLM)
    found = Counter(map(op_class, work_by_step(made)[0]))
    assert found["router"] == 3 * 11 and found["rope and cache"] == 2 * 12 + 1
    assert made.facts.remarks[0].startswith("34 kernels a step have their kind by their place")
    assert with_places(made_of(["nvjet_a"])).facts.remarks == ()

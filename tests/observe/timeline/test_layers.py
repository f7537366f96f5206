"""Layers by module and by period: of the real trace, of other streams, and where there are none."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from glmc.observe.timeline.layers import BY_MODULE, UNKNOWN, layer_of_module, with_layers
from glmc.observe.timeline.readers.open import open_timeline
from glmc.observe.timeline.steps import work_by_step
from glmc.observe.timeline.table import Timeline
from tests.observe.timeline.sample import VLLM, kernel, layered, timeline


def layers(made: Timeline, step: int = 0) -> list[int | None]:
    return [event.layer for event in work_by_step(made)[step]]


def test_the_layers_of_a_real_step() -> None:
    made = open_timeline(VLLM)
    counts = Counter(layers(made, 1))
    assert {layer: counts[layer] for layer in range(12)} == {
        0: 13,
        **dict.fromkeys(range(1, 12), 22),
    }
    assert counts[None] == 34
    assert made.facts.layers.startswith("12 by a period of 18 kernels of one stream, 10 times")
    first = next(event for event in work_by_step(made)[1] if event.layer == 0)
    assert first.name == "triton_red_fused__to_copy_embedding_rms_norm_0"


def test_each_begins_before_the_product_that_feeds_attention() -> None:
    made = with_layers(layered(4))
    assert layers(made) == [*(layer for layer in range(4) for _ in range(6)), None, None]


def test_a_kernel_of_another_stream_is_of_the_layer_in_which_it_begins() -> None:
    made = layered(4, steps=1)
    second = made.events[7]
    beside = kernel("nvjet_shared", second.start_us + 1, 3.0, stream=9)
    made = timeline(*made.events, beside)
    assert next(e.layer for e in with_layers(made).events if e.name == "nvjet_shared") == 1


def test_modules_are_asked_first() -> None:
    made = layered(4, steps=1)
    events = tuple(
        replace(event, module=f"model.layers.{at // 10}.mlp")
        for at, event in enumerate(made.events)
    )
    made = with_layers(replace(made, events=events))
    assert made.facts.layers == BY_MODULE
    assert layers(made) == [at // 10 for at in range(len(events))]


def test_the_number_of_a_layer_in_a_module() -> None:
    assert layer_of_module("model.layers.17.self_attn.q_proj") == 17
    assert layer_of_module("Glm4MoeModel_0/Glm4MoeDecoderLayer_3/Linear_12") == 3
    assert layer_of_module("Glm4MoeModel_0/Linear_12") is None


def test_without_a_period_layers_are_unknown_and_that_is_said() -> None:
    made = with_layers(layered(1))
    assert made.facts.layers == UNKNOWN and set(layers(made)) == {None}


def test_kernels_that_nothing_knows_still_have_a_period() -> None:
    unknown = [(f"kernel_{letter}", 2.0) for letter in "abcdef"]
    made = with_layers(layered(5, kernels=unknown))
    assert "with which of them a layer begins is not known" in made.facts.layers
    assert Counter(layers(made))[2] == 6

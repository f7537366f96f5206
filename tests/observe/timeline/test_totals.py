"""Totals per kind of op, kind of layer and pass; all medians over the steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from glmc.observe.timeline.layers import with_layers
from glmc.observe.timeline.readers.open import open_timeline
from glmc.observe.timeline.steps import select
from glmc.observe.timeline.table import Timeline
from glmc.observe.timeline.totals import Totals, totals
from tests.observe.timeline.sample import VLLM, kernel, layered, timeline


def of(made: Timeline) -> Totals:
    return totals(made, select(made, None, slice(None)))


def test_kinds_of_ops_in_their_order() -> None:
    made = of(with_layers(layered(4)))
    rows = {total.name: (total.launches, total.device_us) for total in made.by_class}
    assert rows == {
        "linear": (9, 102),
        "attention": (4, 20),
        "moe experts": (4, 80),
        "norm": (4, 8),
        "rope and cache": (4, 4),
        "sampling": (1, 3),
    }
    assert sum(total.device_us for total in made.by_class) == pytest.approx(made.busy_us)


def test_kinds_of_layers_and_their_launches() -> None:
    made = of(with_layers(layered(4)))
    assert {total.name: total.launches for total in made.by_layer} == {
        "moe layers 0..3": 24,
        "outside the layers": 2,
    }
    (kind,) = made.layer_kinds
    assert kind.launches == 6


def test_an_event_counts_for_each_of_its_passes() -> None:
    made = of(
        timeline(
            kernel("a", 0, 4, passes=("rope", "kv_cache")),
            kernel("b", 4, 2, passes=("rope",)),
            kernel("c", 6, 1),
        )
    )
    assert {total.name: total.device_us for total in made.by_pass} == {
        "rope": 6,
        "kv_cache": 4,
        "no pass": 1,
    }
    assert of(timeline(kernel("a", 0, 4))).by_pass == ()


def test_a_floor_is_that_of_the_events_that_have_one() -> None:
    made = of(timeline(kernel("nvjet", 0, 4, floor_us=3.0), kernel("nvjet", 5, 4)))
    assert made.floor_us == 3.0 and made.by_class[0].floor_us == 3.0
    assert of(timeline(kernel("nvjet", 0, 4))).floor_us is None


def test_numbers_are_medians_over_the_steps() -> None:
    slow = [kernel("nvjet", 1000.0 * step, time, step=step) for step, time in enumerate((9, 2, 3))]
    assert of(timeline(*slow)).operators_us == 3


def test_without_layers_there_is_no_table_of_them() -> None:
    made = layered(1)
    assert of(replace(made, events=made.events)).by_layer == ()


def test_totals_of_a_real_file() -> None:
    timeline_ = open_timeline(VLLM)
    made = totals(timeline_, select(timeline_, None, None))
    assert made.replayed and made.launches == 289 and made.device == "device 0"
    assert [(kind.name, kind.launches) for kind in made.layer_kinds] == [
        ("dense layer 0", 13),
        ("moe layers 1..11", 22),
    ]
    # As torch.profiler adds up the same kernels: 33 launches of fused_moe_kernel and its helpers.
    experts = next(total for total in made.by_class if total.name == "moe experts")
    assert experts.launches == 33 and 600 < experts.device_us < experts.kernel_us
    assert made.overlapped_us > 500

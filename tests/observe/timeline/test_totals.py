"""Totals per kind of op, kind of layer and pass, of one step, so that they add up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from glmc.observe.timeline.layers import with_layers
from glmc.observe.timeline.readers.open import open_timeline
from glmc.observe.timeline.steps import select
from glmc.observe.timeline.table import Timeline
from glmc.observe.timeline.totals import Totals, totals
from tests.observe.timeline.sample import VLLM, kernel, layered, noisy, timeline


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


def test_rows_and_parts_add_up_where_steps_differ() -> None:
    """The median of each row, of 5 us, would leave out the kernel that is slow."""
    made = of(noisy())
    assert made.busy_us > 90
    for rows in (made.by_class, made.by_layer):
        assert sum(row.device_us for row in rows) == pytest.approx(made.busy_us)
        assert sum(row.launches for row in rows) == made.launches == 6
    assert made.bubbles_us is not None
    parts = made.operators_us + made.communication_us + made.bubbles_us
    assert parts == pytest.approx(made.time_us) and made.gaps == 6


def test_the_step_is_that_of_the_median_time() -> None:
    made = of(noisy())
    assert (made.range_us, made.time_us, made.step.name) == ((105, 111), 109, "step 2")
    starts = enumerate((0, 10, 15))
    slow = [kernel("nvjet", at, 9.0 - 3 * step, step=step) for step, at in starts]
    made = of(timeline(*slow))
    assert (made.range_us, made.time_us, made.step.number) == ((2, 9), 7, 1)


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
